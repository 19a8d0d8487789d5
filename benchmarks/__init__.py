"""Benchmarks: `python -m benchmarks` appends tidy rows to `benchmarks/results/` and prints them."""
