"""Keeps the libraries silent where their output tells nobody anything. Neither Ray nor torch is needed."""

from __future__ import annotations

import logging
import os
import warnings


def silence() -> None:
    """Turns off progress bars and advice of libraries that read these when they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # The bar of a GGUF file's tensors is tqdm's own (transformers/modeling_gguf_pytorch_utils.py, 5.20).
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On CPUs with AVX512-BF16 it advises a kernel for inference alone (bitsandbytes/backends/cpu/ops.py, 0.50).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # What they will rename is for those who call them: tests fail on it where the call is ours.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
