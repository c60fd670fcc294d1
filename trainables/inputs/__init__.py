"""Text, JSON and paths that others wrote: read and shown safely."""
