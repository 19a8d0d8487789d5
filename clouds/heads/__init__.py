"""Built-in heads: `components` lists them, `presets` builds them."""
