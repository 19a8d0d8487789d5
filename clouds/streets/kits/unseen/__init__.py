"""The demo's unseen domains: their models share nothing with the kits of prompts and of the source."""
