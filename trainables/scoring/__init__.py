"""Scores adapters again, for promotion."""

from typing import Literal

Form = Literal["peft", "merged", "gguf", "gguf-merged"]
"""peft: the PEFT folder. merged: base and adapter as one model in 16 bits. gguf: the adapter as llama.cpp reads it.

gguf-merged: base and adapter as one model that llama.cpp reads.
"""
