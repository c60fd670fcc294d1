"""Runs a sweep on Ray Tune. No other package imports Ray Tune."""
