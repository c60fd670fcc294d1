"""Reads the files of a model without loading it: its configuration, samples of its weights, and their headers.

Uses the standard library alone.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import mmap
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from trainables.errors import ModelError
from trainables.inputs import json_text, safetensors_header
from trainables.specs import ModelSpec

# The files from which the tokenizers of transformers 5.24 read their vocabulary (VOCAB_FILES_NAMES).
_VOCABULARIES = (
    "tokenizer.json", "*.model", "*vocab*.json", "*vocab*.txt", "*.tiktoken", "tekken.json", "bpe.codes", "dict.txt",
    "*.tokenizer", "byte_maps.json",
)  # fmt: skip
_OF_TOKENIZERS = (
    *_VOCABULARIES,
    "*token*.json",
    "vocab.*",
    "*merges*.txt",
    "*template*.j*",
    "additional_chat_templates/*",
)
"""Vocabularies, settings, merges and chat templates, as `save_pretrained` writes them."""
_DAMAGED = "a copy cut short, or a Git LFS pointer? download it again"
_MIB = 1 << 20
# Value types of the GGUF specification (ggml, docs/gguf.md, versions 2 and 3) and their struct codes.
_SCALARS: Mapping[int, str] = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


def error(source: str, problem: str) -> ModelError:
    """Returns the error for a `model.source` with a problem."""
    return ModelError(f"model.source: {source!r}: {problem}")


def config(source: str, folder: Path) -> Mapping[str, object]:
    """Reads config.json in the folder of a model. Raises ModelError when it cannot be read."""
    try:
        content = json_text.parse((folder / "config.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise error(source, f"config.json is not readable JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise error(source, f"config.json must hold a JSON object, not {type(content).__name__}")
    return content


def lacking(names: Collection[str], own_code: bool = False) -> str | None:
    """Returns which file a model lacks, and what to do; None if no file is known to be missing.

    Args:
        names: names of all files in the folder of the model.
        own_code: whether the model brings its own code, which may read the vocabulary from any file.
    """
    if "config.json" not in names:
        if "adapter_config.json" in names:
            return "a LoRA adapter, not a base model; name the model that it was trained on"
        return "a model folder needs config.json, as save_pretrained writes it; for GGUF name the file"
    if "model.safetensors.index.json" not in names and not fnmatch.filter(names, "*.safetensors"):
        if fnmatch.filter(names, "*.bin"):
            way_out = 'AutoModelForCausalLM.from_pretrained("OLD").save_pretrained("NEW"), for a model that you trust'
            return f"only .bin weights: pickle files run code when read; convert them once: {way_out}"
        return "a model folder needs weights: no *.safetensors here"
    if not own_code and not any(fnmatch.filter(names, pattern) for pattern in _VOCABULARIES):
        way_out = 'AutoTokenizer.from_pretrained("ITS BASE").save_pretrained("HERE")'
        return f"a model folder needs a tokenizer: no tokenizer.json, nor another vocabulary; put it there: {way_out}"
    return None


def of_tokenizer(folder: Path) -> list[Path]:
    """Returns the files in the folder of a model that a tokenizer may read, sorted."""
    found = [path for pattern in _OF_TOKENIZERS for path in folder.glob(pattern)]
    return sorted({path for path in found if path.is_file()})


def header(source: str, path: Path) -> tuple[Mapping[str, object], int]:
    """Reads the key-value section of a GGUF file and counts the elements of all its tensors; once for each content.

    An array of strings is read as its length, an array of numbers as its largest number: sizes need no more.

    Raises:
        ModelError: the file is not GGUF of version 2 or 3, or the header ends early.
    """
    with _whole(source, path, "GGUF"):
        seen = path.stat()
        return _header(path, seen.st_ino, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=4)
def _header(path: Path, *_content: int) -> tuple[Mapping[str, object], int]:
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise ValueError(f"a GGUF file begins with b'GGUF', this one with {magic!r}")
        # A mapped file lets the reader skip strings: the 100,000 tokens and merges of a tokenizer take about 20 ms.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            try:
                return reader.header()
            except (struct.error, OverflowError, KeyError) as problem:
                raise ValueError(f"the GGUF header is damaged near byte {reader.position}: {problem!r}") from problem


def parameters(source: str, path: Path) -> int:
    """Counts the elements of all tensors of a safetensors file (safetensors, README: format).

    Raises:
        ModelError: the header is damaged, or the file is shorter or longer than the header says.
    """
    size = path.stat().st_size
    with _whole(source, path, "safetensors"):
        with path.open("rb") as file:
            header, start = safetensors_header.read_header(file, size)
        try:
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            end = start + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
            elements = sum(int(math.prod(tensor["shape"])) for tensor in tensors)
        except (KeyError, TypeError, AttributeError, IndexError) as problem:
            raise ValueError(f"no tensor table in the header: {problem!r}") from problem
        if end != size:
            raise ValueError(f"the header promises {end} bytes, the file has {size}")
    return elements


@contextmanager
def _whole(source: str, path: Path, kind: str) -> Iterator[None]:
    """Raises ModelError in place of a ValueError of the block, which reads a file of this kind."""
    try:
        yield
    except ValueError as problem:
        raise error(source, f"{path.name} is not a whole {kind} file ({problem}): {_DAMAGED}") from problem


def cached(model: ModelSpec) -> Path | None:
    """Returns the folder of a hub model in the local cache, or None. Importing huggingface_hub takes under 0.1 s."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model.source, "config.json", revision=model.revision)
    return Path(path).parent if isinstance(path, str) else None


# Weights


def weights(folder: Path) -> list[Path]:
    """Returns the safetensors files that transformers loads, in order. Files that an index names may be missing.

    Takes model.safetensors, else the files of the index, as transformers 5.24 does (modeling_utils.py,
    _get_resolved_checkpoint_files); else all safetensors files.
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
    """Returns one value of the header of a GGUF file as text, or None. Raises ModelError when the file is damaged."""
    value = header(str(path), path)[0].get(key)
    return None if value is None else str(value)


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
