"""The frozen base model: its place, its size, and how it is loaded."""
