"""What streets are drawn with: of prompts, of the demo's source, of its unseen domains. No model is in two kits."""
