"""The `clouds` command."""
