"""What people read of a sweep."""
