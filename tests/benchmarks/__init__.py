"""Benchmarks: `make bench`. Ratios within one run on one machine; no assertion is timed."""

import sys
from pathlib import Path

# The helpers of tests are imported by their bare names, here as under pytest.
sys.path.insert(0, str(Path(__file__).parents[1]))
