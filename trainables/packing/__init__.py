"""Many adapters on one frozen base: training, memory, files."""
