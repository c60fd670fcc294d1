"""Supplies the trials of a sweep: its own, those that users ask for, and the points of an earlier sweep. Pure."""
