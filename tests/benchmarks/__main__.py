"""Runs every benchmark and prints a table each."""

from __future__ import annotations

import argparse

from . import packing, processes, startup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="repetitions of each start-up command")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each packed measurement")
    parser.add_argument("--trials", type=int, default=100, help="trials of each sweep that counts processes")
    arguments = parser.parse_args()
    startup.main(arguments.runs)
    packing.main(arguments.steps)
    processes.main(arguments.trials)


main()
