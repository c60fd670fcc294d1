"""How a running sweep is asked for something."""
