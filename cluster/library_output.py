"""Keeps the libraries silent where their output tells nobody anything. Neither Ray nor torch is needed."""

from __future__ import annotations

import os
import warnings


def silence() -> None:
    """Turns off the progress bars and advice of the Hugging Face libraries, which read these when they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # The bar of a GGUF file's tensors is tqdm's own (transformers/modeling_gguf_pytorch_utils.py, 5.20).
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What they will rename is for those who call them: tests fail on it where the call is ours.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
