"""Reads the headers of weight files, without the weights and with the standard library alone."""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from trainables.inputs import json_text, safetensors_header

_MIB = 1 << 20
# Value types of the GGUF specification (ggml, docs/gguf.md, versions 2 and 3) and their struct codes.
_SCALARS: Mapping[int, str] = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


def weights(folder: Path) -> list[Path]:
    """Returns the safetensors files that transformers loads, in order. Those that an index names may be missing.

    Takes one file, else those of an index, as transformers 5.24 (modeling_utils.py, _get_resolved_checkpoint_files).
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    try:
        index = json_text.parse((folder / "model.safetensors.index.json").read_bytes())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sorted(folder.glob("*.safetensors"))


def samples(path: Path) -> Iterator[bytes]:
    """Reads samples of a file: the first and the last MiB, and 63 pages of 4 KiB at equal distances between them."""
    size = path.stat().st_size
    pages = [(size * part // 64, 4096) for part in range(1, 64)]
    with path.open("rb", buffering=0) as file:
        for start, length in [(0, _MIB), *pages, (max(0, size - _MIB), _MIB)]:
            file.seek(start)
            yield file.read(length)


def sampled_digest(path: Path) -> str:
    """Returns 64 hex digits over the size of a file and its `samples`."""
    digest = hashlib.sha256(f"{path.stat().st_size}\n".encode())
    for stretch in samples(path):
        digest.update(stretch)
    return digest.hexdigest()


def gguf_text(path: Path, key: str) -> str | None:
    """Returns one value of the header of a GGUF file as text, or None. Raises ValueError like `gguf_header`."""
    value = gguf_header(path)[0].get(key)
    return None if value is None else str(value)


def safetensors_parameters(path: Path) -> int:
    """Counts the elements of all tensors of a safetensors file (safetensors, README: format).

    Raises:
        ValueError: the header is damaged, or the file is shorter or longer than the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header, start = safetensors_header.read(file, size)
    try:
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = start + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        elements = sum(int(math.prod(tensor["shape"])) for tensor in tensors)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"no tensor table in the header: {error!r}") from error
    if end != size:
        raise ValueError(f"the header promises {end} bytes, the file has {size}")
    return elements


def gguf_header(path: Path) -> tuple[Mapping[str, object], int]:
    """Reads the key-value section of a GGUF file and counts the elements of all its tensors.

    Of an array of strings it keeps the length, of an array of numbers the largest: the sizes come from these.

    Raises:
        ValueError: the file is not GGUF of version 2 or 3, or the header ends early.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise ValueError(f"a GGUF file begins with b'GGUF', this one with {magic!r}")
        # A mapped file lets the reader skip strings: the 100,000 tokens and merges of a tokenizer take about 20 ms.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            try:
                return reader.header()
            except (struct.error, OverflowError, KeyError) as error:
                raise ValueError(f"the GGUF header is damaged near byte {reader.position}: {error!r}") from error


class _Reader:
    """Reads a mapped GGUF file from a position that moves forward."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 4  # after the magic

    def header(self) -> tuple[dict[str, object], int]:
        version = self._number("I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version} is not supported: only 2 and 3, little-endian, are")
        tensors, pairs = self._number("Q"), self._number("Q")
        values = {}
        for _ in range(pairs):
            key = self._text()
            values[key] = self._value(self._number("I"))
        return values, sum(self._tensor() for _ in range(tensors))

    def _number(self, code: str) -> int:
        (number,) = self._numbers(code, 1)
        return int(number)

    def _numbers(self, code: str, count: int) -> tuple[float, ...]:
        layout = f"<{count}{code}"
        numbers = struct.unpack_from(layout, self._data, self.position)
        self.position += struct.calcsize(layout)
        return numbers

    def _text(self) -> str:
        length = self._number("Q")
        self.position += length
        return self._data[self.position - length : self.position].decode(errors="replace")

    def _value(self, kind: int) -> object:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._numbers(_SCALARS[kind], 1)[0]
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            self._skip_texts(count)
            return count
        if inner == _ARRAY:
            return [self._value(_ARRAY) for _ in range(count)]
        return max(self._numbers(_SCALARS[inner], count), default=0)

    def _skip_texts(self, count: int) -> None:
        length_at, data, position = struct.Struct("<Q").unpack_from, self._data, self.position
        for _ in range(count):
            position += 8 + length_at(data, position)[0]
        self.position = position

    def _tensor(self) -> int:
        """Counts the elements of the next tensor; skips its name, type and offset."""
        self._text()
        shape = self._numbers("Q", self._number("I"))
        self._numbers("I", 1)
        self._numbers("Q", 1)
        return math.prod(int(width) for width in shape)
