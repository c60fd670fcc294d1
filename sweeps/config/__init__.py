"""Reads and checks the sweep file, and turns it into a frozen object."""
