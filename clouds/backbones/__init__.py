"""Built-in backbones: `components` lists them, `presets` builds them."""
