"""What a sweep will do and cost, and which trials it tries."""
