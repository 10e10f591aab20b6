"""Figures of the suite, each as a ratio to a baseline of the same run: `python -m benchmarks [--only turn]`."""
