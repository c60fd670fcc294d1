"""Scores adapters again, for promotion."""
