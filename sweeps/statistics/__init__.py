"""Paired comparisons of two evaluations, row by row, by any metric. Only `trials` reads files."""
