"""`python -m sweeps` is `qsweep`."""

from sweeps.cli import main

main()
