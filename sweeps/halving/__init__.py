"""Rungs and the rule of successive halving. Pure."""
