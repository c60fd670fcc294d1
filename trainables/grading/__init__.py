"""Graders: what a generated answer is worth. Each is found by the name that `evaluation.metrics` gives it."""
