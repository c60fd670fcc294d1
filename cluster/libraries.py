"""Changes other libraries where they have no setting, and silences them. Imports neither Ray nor torch."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Gives attributes of a module or a class other values while the block runs."""
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def silence() -> None:
    """Turns off progress bars and advice of libraries. Has to run before the imports, which read these variables."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # The bar of a GGUF file's tensors is tqdm's own (transformers/modeling_gguf_pytorch_utils.py, 5.20).
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On CPUs with AVX512-BF16 bitsandbytes advises a kernel for inference alone (its backends/cpu/ops.py, 0.50).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # Warnings of future changes are for a library's callers. Tests fail on a warning of our own call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
