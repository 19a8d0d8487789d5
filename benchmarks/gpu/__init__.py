"""Everything that needs a GPU, in order of value, within a time limit: `python -m benchmarks.gpu`."""
