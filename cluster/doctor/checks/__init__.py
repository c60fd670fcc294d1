"""The checks of `qsweep doctor`, one file each; `cluster/doctor/contract.py` says what a check has."""
