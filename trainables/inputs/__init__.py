"""Reads and shows foreign text, JSON and paths safely."""
