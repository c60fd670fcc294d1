"""Reads the files of a model without loading it: its configuration and the headers of its weights."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping
from pathlib import Path

from trainables.base import weight_files
from trainables.errors import ModelError
from trainables.inputs import json_text
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
"""With the settings, the merges and the chat templates, as `save_pretrained` writes them."""
_DAMAGED = "a copy cut short, or a Git LFS pointer? download it again"


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
    """Returns which file a model lacks, and what to do; None when none is known to be missing.

    Args:
        names: names of all files in the folder of the model.
        own_code: the model brings its own code, which may read the vocabulary from any file.
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
    """Returns the files in the folder of a model that its tokenizer may be read from, in order."""
    found = [path for pattern in _OF_TOKENIZERS for path in folder.glob(pattern)]
    return sorted({path for path in found if path.is_file()})


def header(source: str, path: Path) -> tuple[Mapping[str, object], int]:
    """Reads the key-value section of a GGUF file and counts the elements of all its tensors. Raises ModelError."""
    try:
        return weight_files.gguf_header(path)
    except ValueError as problem:
        raise error(source, f"{path.name} is not a whole GGUF file ({problem}): {_DAMAGED}") from problem


def parameters(source: str, path: Path) -> int:
    """Counts the elements of all tensors of a safetensors file. Raises ModelError."""
    try:
        return weight_files.safetensors_parameters(path)
    except ValueError as problem:
        raise error(source, f"{path.name} is not a whole safetensors file ({problem}): {_DAMAGED}") from problem


def cached(model: ModelSpec) -> Path | None:
    """Returns the folder of a hub model in the local cache, or None. Importing huggingface_hub takes under 0.1 s."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model.source, "config.json", revision=model.revision)
    return Path(path).parent if isinstance(path, str) else None
