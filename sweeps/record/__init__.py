"""What happened in a sweep, in memory and in its folder on disk."""
