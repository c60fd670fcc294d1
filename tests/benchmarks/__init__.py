"""Benchmarks: `make bench`. Ratios within one run on one machine; no assertion is timed."""
