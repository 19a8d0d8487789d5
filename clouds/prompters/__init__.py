"""Built-in prompters: `components` lists them, `presets` builds them."""
