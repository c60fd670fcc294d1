"""Frozen bases to measure on: the quickstart's model, and Llama shapes with random weights in NF4."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.devices import cache
from sweeps.config import load
from trainables import qlora
from trainables.base import base_model
from trainables.base.base_model import Base
from trainables.data import dataset
from trainables.specs import TrialSpec

MODEL = "SmolLM2-135M"
"""The quickstart's, with its own weights and rows."""
LABELLED = 0.58
"""Share of the tokens that count in the loss, as in GSM8K."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int


SHAPES = {
    "tiny": Shape(2, 64, 128, 4, 2, 256),
    "135M": Shape(30, 576, 1536, 9, 3, 49152),
    "1B": Shape(16, 2048, 8192, 32, 8, 128256),
    "3B": Shape(28, 3072, 8192, 24, 8, 128256),
    "8B": Shape(32, 4096, 14336, 32, 8, 128256),
}
"""SmolLM2-135M, and Llama 3.1 and 3.2 as their config.json tells; `tiny` is for trying this out."""


@once
def quickstart() -> TrialSpec:
    """The quickstart's base specification."""
    return load.load("quickstart", [], Path.cwd()).config.base


def made(name: str) -> Base:
    """A base of its own: the quickstart's model, or random weights in one of `SHAPES`."""
    return base_model.load(quickstart(), cache()) if name == MODEL else random_base(SHAPES[name])


def rows_for(name: str, tokens: int = 512, count: int = 512) -> dataset.Splits:
    """The quickstart's rows for its model, else `count` random ones of so many tokens."""
    if name == MODEL:
        return dataset.load(qlora.prepare(quickstart(), cache()).payload)
    ids = np.random.default_rng(0).integers(0, SHAPES[name].vocabulary, count * tokens).astype(np.int32)
    starts = np.arange(count + 1, dtype=np.int64) * tokens
    labelled = np.tile(np.arange(tokens) >= tokens - int(LABELLED * tokens), count)
    split = dataset.Split(ids, starts, labelled)
    return dataset.Splits(split, split)


def random_base(shape: Shape, dtype: torch.dtype | None = None) -> Base:
    """A Llama with random weights, its linear layers in NF4 with double quantisation; bfloat16 on a GPU by default."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    config = LlamaConfig(
        num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
        max_position_embeddings=4096, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            parent, _, own = name.rpartition(".")
            setattr(model.model.get_submodule(parent), own, in_nf4(layer, device, dtype))
    model.requires_grad_(False)
    model.eval()
    # PEFT warns where this is not the specification's.
    model.name_or_path = quickstart().base_model.source
    # PEFT asks this before it prepares a base for training (peft/utils/other.py, 0.21.2); from_pretrained sets it.
    model.is_loaded_in_4bit = True
    base_model.keep_gradients(model)
    return Base(model, device, dtype)


def in_nf4(layer: torch.nn.Linear, device: torch.device, dtype: torch.dtype) -> Linear4bit:
    """The layer with its weight quantised."""
    made = Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    # Moving it to its device quantises it.
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    ).to(device)
    return made


def linear_sizes(base: Base) -> tuple[int, int]:
    """Frozen parameters that every token is multiplied with, and those of the head."""
    head = base.model.get_output_embeddings()
    layers = [layer for layer in base.model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    return sum(each.in_features * each.out_features for each in layers), head.in_features * head.out_features
