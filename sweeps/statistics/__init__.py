"""What rows tell of a difference: paired comparisons of two evaluations by any metric. No files but in `trials`."""
