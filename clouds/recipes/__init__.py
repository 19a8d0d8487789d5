"""Recipes: TOML files that hold what a training run needs, as data."""
