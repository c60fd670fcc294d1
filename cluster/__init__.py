"""Where trials run: hosts that hold a base model, the broker that leases their slots, and the connection to Ray."""

PACKAGES = ("cluster", "qsweep", "search_spaces", "sweeps", "trainables")
"""The import names of this project."""
