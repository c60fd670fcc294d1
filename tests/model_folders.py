"""Model files without a model: folders and GGUF files as small as their headers, for tests."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def write_safetensors(path: Path, *shapes: tuple[int, ...]) -> Path:
    """A safetensors file of fp32 tensors, all 0."""
    header, end = {}, 0
    for index, shape in enumerate(shapes):
        size = 4 * math.prod(shape)
        header[f"t{index}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def write_folder(folder: Path, config: dict[str, object] = LLAMA) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", (10, 10), (5,))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def cached(
    cache: Path, config: dict[str, object], others: dict[str, bytes] | None = None, name: str = "owner/name"
) -> None:
    """Puts a model into a cache of the hub, with its configuration and these other files."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (snapshot := folder / "snapshots" / ("3" * 40)).mkdir(parents=True)
    for name, content in {"config.json": json.dumps(config).encode(), **(others or {})}.items():
        (snapshot / name).write_bytes(content)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_uint32(key: str, value: int) -> bytes:
    return gguf_text(key) + struct.pack("<II", 4, value)


def gguf_file(*pairs: bytes, version: int = 3) -> bytes:
    """A GGUF file of two tensors without data, from encoded key-value pairs."""
    infos = b"".join(
        gguf_text("t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0) for shape in ((32, 64), (32,))
    )
    return b"GGUF" + struct.pack("<IQQ", version, 2, len(pairs)) + b"".join(pairs) + infos


def gguf_pairs() -> list[bytes]:
    """Llama's sizes after a tokenizer's arrays; the vocabulary only as long as its list of tokens."""
    tokens = b"".join(gguf_text(f"token{index}") for index in range(64))
    return [
        gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama"),
        gguf_text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 64) + tokens,
        gguf_text("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.0, 1.0, 2.0),
        gguf_text("tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, True),
        gguf_uint32("llama.block_count", 2),
        gguf_uint32("llama.embedding_length", 32),
        gguf_uint32("llama.feed_forward_length", 48),
        gguf_uint32("llama.attention.head_count", 4),
    ]


GGUF = gguf_file(*gguf_pairs())
