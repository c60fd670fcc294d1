"""Reads the sizes of a model from its configuration and the headers of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from trainables.base import model_files
from trainables.specs import ModelFacts

# Each size has several names: first that of Llama, then of GPT-2, then of OPT, GPT-Neo, Falcon and MPT.
_CONFIG_NAMES: Mapping[str, Sequence[str]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
}
_GGUF_NAMES: Mapping[str, str] = {
    "layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "vocab_size": "vocab_size",
    "attention_heads": "attention.head_count",
    "key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@lru_cache
def shipped(name: str) -> ModelFacts | None:
    """Returns the sizes of a common hub model that ship in shipped_facts.json, with their source; else None."""
    models = json.loads(Path(__file__).with_name("shipped_facts.json").read_text(encoding="utf-8"))["models"]
    return next((ModelFacts(**each["facts"], of=name) for each in models if name in each["of"]), None)


def of_folder(source: str, folder: Path) -> ModelFacts | None:
    """Reads the sizes from config.json and from the weights, if present; returns None if a size is unknown.

    Raises:
        ModelError: a file cannot be read.
    """
    config = model_files.config(source, folder)
    text = config.get("text_config")  # the language model inside a multimodal one
    merged = {**config, **text} if isinstance(text, dict) else config
    sizes = {size: _first(merged, names) for size, names in _CONFIG_NAMES.items()}
    stated = {size: value for size, value in sizes.items() if value is not None}
    return _facts(stated, _counted(source, folder, merged) or _estimated(stated, merged))


def of_gguf(source: str, path: Path) -> ModelFacts | None:
    """Reads the sizes from the header of a GGUF file; returns None if a size is unknown. Raises ModelError."""
    values, parameters = model_files.header(source, path)
    architecture = values.get("general.architecture")
    sizes = {size: _first(values, [f"{architecture}.{name}"]) for size, name in _GGUF_NAMES.items()}
    sizes["vocab_size"] = sizes["vocab_size"] or _first(values, ["tokenizer.ggml.tokens"])
    stated = {size: value for size, value in sizes.items() if value is not None}
    return _facts(stated, parameters)


def _facts(stated: Mapping[str, int], parameters: int | None) -> ModelFacts | None:
    """Returns all sizes, from the stated sizes and the number of parameters; None if a size is unknown."""
    known = dict(stated)
    if "hidden_size" in known:
        known.setdefault("intermediate_size", 4 * known["hidden_size"])  # GPT-2, configuration_gpt2.py: n_inner
    if "attention_heads" in known:
        known.setdefault("key_value_heads", known["attention_heads"])
    if parameters is None or any(size not in known for size in _CONFIG_NAMES if size != "head_dim"):
        return None
    return ModelFacts.model_validate({**known, "parameters": parameters})


def _first(values: Mapping[str, object], names: Sequence[str]) -> int | None:
    candidates = (values.get(name) for name in names)
    return next((value for value in candidates if type(value) is int and value > 0), None)


def _counted(source: str, folder: Path, config: Mapping[str, object]) -> int | None:
    weights = model_files.weights(folder)
    if "quantization_config" in config or not weights or not all(path.is_file() for path in weights):
        return None
    return sum(model_files.parameters(source, path) for path in weights)


def _estimated(stated: Mapping[str, int], config: Mapping[str, object]) -> int | None:
    """Estimates the parameters of a Llama-like model without biases. Models like GPT-2 have two MLP matrices, not 3.

    Returns None for a mixture of experts, because each architecture arranges its experts differently.
    """
    if not {"hidden_size", "attention_heads", "layers", "vocab_size"} <= stated.keys() or _first(config, _EXPERTS):
        return None
    hidden, heads = stated["hidden_size"], stated["attention_heads"]
    inner = stated.get("intermediate_size", 4 * hidden)
    head = stated.get("head_dim") or hidden // heads
    attention = 2 * hidden * head * (heads + stated.get("key_value_heads", heads))
    matrices = 3 if "hidden_act" in config or "hidden_activation" in config else 2
    embeddings = stated["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    return stated["layers"] * (attention + matrices * hidden * inner + 2 * hidden) + hidden + embeddings
