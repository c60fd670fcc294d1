"""Keeps the libraries silent in processes whose output nobody reads. Neither Ray nor torch is needed."""

from __future__ import annotations

import os


def silence() -> None:
    """Turns off the progress bars and advice of the Hugging Face libraries, which read these when they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
