"""The core: rooms that stand on each other, from `system` up to `published`."""
