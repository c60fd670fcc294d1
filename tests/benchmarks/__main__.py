"""Runs every benchmark that `make bench` stands for, and prints their tables: about an hour on two cores.

Figures go to one folder per benchmark under --results; what is there is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import against_ray_tune, answers, driver_scale, packing, startup

BENCHMARKS = {
    "against_ray_tune": against_ray_tune.main,
    "packing": packing.main,
    "driver_scale": driver_scale.main,
    "answers": answers.main,
    "startup": startup.main,
}


def main() -> None:
    """Runs those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results"))
    parser.add_argument("--only", nargs="*", default=list(BENCHMARKS), choices=list(BENCHMARKS))
    arguments = parser.parse_args()
    for name in arguments.only:
        BENCHMARKS[name](["--results", str(arguments.results / name)])


main()
