"""The published implementation's checkpoints, in and out."""
