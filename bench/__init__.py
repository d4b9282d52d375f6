"""Benchmarks: two ways of doing one thing, timed in turn in one run, as ratios."""
