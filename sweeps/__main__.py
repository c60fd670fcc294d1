"""`python -m sweeps` is `qsweep`."""

from sweeps.cli import main

# A process that is spawned reads this module again.
if __name__ == "__main__":
    main()
