"""Built-in refiners: `components` lists them, `presets` builds them."""
