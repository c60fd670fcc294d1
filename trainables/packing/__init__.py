"""Trains many adapters on one frozen base: engine, memory, files."""
