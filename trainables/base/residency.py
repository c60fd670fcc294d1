"""Dequantises a 4-bit base once, where there is room, instead of layer by layer in every pass.

The weights are those of the 4-bit base: bitsandbytes computes a training pass with the very same dequantised weights
(autograd/_functions.py, matmul_4bit, 0.50.2), so the numbers are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dequantise(model: PreTrainedModel) -> None:
    """Puts a plain linear layer in place of each 4-bit one. Layers that are not quantised are left alone."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, Linear4bit):
            continue
        whole = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        kind = layer.compute_dtype or whole.dtype
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(whole.to(kind), requires_grad=False)
        if layer.bias is not None:
            plain.bias = torch.nn.Parameter(layer.bias.detach().to(kind), requires_grad=False)
        plain.train(layer.training)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
