"""Import and export of the published implementation's checkpoints."""
