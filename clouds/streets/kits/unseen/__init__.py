"""The demo's unseen domains: models that share nothing with what prompts or the source can reach."""
