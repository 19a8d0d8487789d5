"""Kits of prompts, of the demo's source, and of its unseen domains. No model is in two kits."""
