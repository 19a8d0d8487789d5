"""Everything that needs a GPU, in order of value, within a time that was given: `python -m benchmarks.gpu`."""
