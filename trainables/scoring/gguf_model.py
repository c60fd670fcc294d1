"""Writes a merged model and its tokenizer as one GGUF file for llama.cpp.

What llama.cpp would compute otherwise, or would read in other tokens, is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import safetensors.torch
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from trainables.errors import ModelError
from trainables.scoring.gguf_adapter import WAY_OUT, places

_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_WORDS = {"type": "Split", "behavior": "Isolated", "invert": False}
_SPLITTING: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}],
    "qwen2": [_WORDS | {"pattern": {"Regex": PRETOKENIZE_REGEX}}, _BYTES | {"use_regex": False}],
    "llama-bpe": [
        _WORDS | {"pattern": {"Regex": PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}},
        _BYTES | {"use_regex": False},
    ],
}
"""Name of a rule in llama.cpp's src/llama-vocab.cpp -> the same rule in a tokenizer.json."""


def write(file: Path, folder: Path, ends: tuple[int, ...]) -> None:
    """Writes the file: matrices in the model's type, vectors in float32.

    Args:
        folder: the merged model and its tokenizer, as transformers saves them.
        ends: the tokens that ended answers in training.

    Raises:
        ModelError: llama.cpp cannot hold this model, or this product does not know how.
    """
    config = AutoConfig.from_pretrained(folder)
    matrices = gguf.GGMLQuantizationType.F16 if config.dtype == torch.float16 else gguf.GGMLQuantizationType.BF16
    tensors: dict[str, torch.Tensor] = {}
    for part in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(part)
    architecture, named = places(config.to_dict(), {name: len(each) for name, each in tensors.items()})
    writer = gguf.GGUFWriter(file, architecture, use_temp_file=True)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{matrices.name}"])
    _add_sizes(writer, config)
    _add_tokenizer(writer, folder, config.vocab_size, ends)
    for name, tensor in tensors.items():
        stored, order = named[name]
        kind = matrices if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(stored, gguf.quants.quantize(tensor.float().numpy()[order], kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = config.to_dict() | {"rope_theta": float(rope["rope_theta"]), "head_dim": size}
    names = GGUF_CONFIG_MAPPING[writer.arch] | {
        "rope.dimension_count": "head_dim", "attention.key_length": "head_dim", "attention.value_length": "head_dim",
    }  # fmt: skip
    for name, field in names.items():
        value = values[field]
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{writer.arch}.{name}", value)
    kind = (writer.arch, rope["rope_type"], getattr(config, "sliding_window", None))
    if kind == ("llama", "llama3", None):
        lengthened, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        plain = values["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        writer.add_tensor("rope_freqs.weight", (plain / lengthened).numpy())
    elif kind[1:] != ("default", None):
        raise ModelError(f"--merged: rope_type {kind[1]} with sliding_window {kind[2]} is not written: {WAY_OUT}")


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int, ends: tuple[int, ...]) -> None:
    """Adds tokens, merges, special tokens and chat template. `size`: rows of the embedding."""
    path = folder / "tokenizer.json"
    tokenizer, told = Tokenizer.from_file(str(path)), json.loads(path.read_bytes())
    found = told["pre_tokenizer"] or {}
    steps = [{key: step[key] for key in step if key != "trim_offsets"} for step in found.get("pretokenizers", [found])]
    rule = next((name for name, known in _SPLITTING.items() if steps == known), None)
    if rule is None or told["model"]["type"] != "BPE":
        raise ModelError(f"--merged: how the tokenizer splits text has no known name in llama.cpp: {WAY_OUT}")
    tokens, types = [f"[unused {place}]" for place in range(size)], [gguf.TokenType.UNUSED] * size
    for token, place in tokenizer.get_vocab().items():
        tokens[place], types[place] = token, gguf.TokenType.NORMAL
    for place, added in tokenizer.get_added_tokens_decoder().items():
        types[place] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    known = special.special_token_ids
    special.add_special_token = {"bos": tokenizer.encode("a").ids[:1] == [known.get("bos")], "eos": False}
    if others := [end for end in ends if end != known.get("eos")]:
        known["eot"] = others[0]
    special.add_to_gguf(writer, quiet=True)
