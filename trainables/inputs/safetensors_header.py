"""Reads the header of a safetensors file: 8 bytes of length, little-endian, then JSON (safetensors 0.8, README)."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from trainables.inputs import json_text


def read_header(file: BinaryIO, size: int) -> tuple[Any, int]:
    """Reads the header from the start of a file of `size` bytes; returns the header and the first byte of the tensors.

    Raises:
        ValueError: the header is not JSON.
    """
    length = int.from_bytes(file.read(8), "little")
    return json_text.parse(file.read(min(length, size))), 8 + length


def metadata(content: bytes) -> dict[str, str]:
    """Returns the metadata in the header of a file. Raises ValueError or KeyError if there is none."""
    texts: dict[str, str] = read_header(io.BytesIO(content), len(content))[0]["__metadata__"]
    return texts
