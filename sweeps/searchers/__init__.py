"""Where the next point comes from: one module per searcher, each with a `Config`."""
