"""A renderer of street scenes driven by frozen records: `records` defines a style, `render` draws it."""
