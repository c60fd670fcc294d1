"""Adapters scored again, for promotion."""
