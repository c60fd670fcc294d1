"""The sweep on Ray Tune: all that touches it."""
