"""The frozen base model: where it lies, how large it is, how it is loaded."""
