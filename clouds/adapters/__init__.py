"""Built-in adapters: `components` lists them, `presets` builds them."""
