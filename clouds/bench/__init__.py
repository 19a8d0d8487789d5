"""Microbenchmarks of the operations, at the sizes of the released models: `clouds bench`."""
