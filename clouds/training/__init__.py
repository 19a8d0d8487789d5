"""Source warm-up and joint self-training of any composed pipeline."""
