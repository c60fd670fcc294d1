"""Finds the folders of sweeps, and asks running sweeps for something."""
