"""One renderer of street scenes, driven by frozen records: `records` (what a style is), `render` (draws it)."""
