"""Built-in generators: `components` lists them, `presets` builds them."""
