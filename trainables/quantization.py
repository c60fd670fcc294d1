"""The schemes that quantise the frozen base, each of which answers for itself.

Another scheme is an entry of `SCHEMES`, and a branch of `weight` if its layers keep weights in a form of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

SchemeName = Literal["nf4", "fp4", "none"]
Residency = Literal["4bit", "dequantised"]


@dataclass(frozen=True)
class Scheme:
    """The form of the linear layers in the blocks. The defaults are those of a base that is not quantised."""

    words: str = "not quantised"
    is_quantised: bool = False
    may_double: bool = False
    """Whether the constants of quantisation can be quantised too."""
    residencies: tuple[Residency, ...] = ("dequantised",)
    """Forms in memory while adapters train, the one as loaded first."""
    packages: tuple[str, ...] = ()
    """What loads and computes such a base, beside torch and transformers."""
    vllm_option: str | None = ""
    """The option with which vLLM quantises a base in the same way; None if it cannot."""
    _options: Mapping[str, Any] = field(default_factory=dict)

    def linear_bytes(self, is_double: bool) -> float:
        """Returns the bytes of a quantised weight in a linear layer, with its share of the constants.

        bitsandbytes 0.50 takes half a byte, and a constant per 64 weights. The constant is fp32, or with double
        quantisation one byte plus an fp32 constant per 256 of them (QLoRA, arXiv 2305.14314, section 3).
        """
        return 0.5 + ((1 + 4 / 256) / 64 if is_double else 4 / 64)

    def options(self, is_double: bool, dtype: str) -> dict[str, Any]:
        """Returns what `BitsAndBytesConfig` is given to load such a base; empty if it is not quantised.

        Args:
            dtype: the type of the activations, such as "bfloat16".
        """
        if not self.is_quantised:
            return {}
        return {**self._options, "bnb_4bit_use_double_quant": is_double, "bnb_4bit_compute_dtype": dtype}


def _in_4_bits(kind: SchemeName, vllm_option: str | None) -> Scheme:
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Scheme(kind, True, True, ("4bit", "dequantised"), ("bitsandbytes",), vllm_option, options)


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        # vLLM quantises to nf4 with double quantisation, and to nothing else (model_loader/bitsandbytes_loader.py).
        "nf4": _in_4_bits("nf4", " --quantization bitsandbytes"),
        "fp4": _in_4_bits("fp4", None),
        "none": Scheme(),
    }
)


def is_quantised(layer: torch.nn.Module) -> bool:
    """Tells whether the weight of a layer is quantised."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def weight(layer: torch.nn.Module) -> torch.Tensor:
    """Returns the (out, in) weight of a linear layer; a quantised one is dequantised to the type of activations."""
    stored: Any = layer.weight
    if not is_quantised(layer):
        plain: torch.Tensor = stored.detach()
        return plain
    from bitsandbytes.functional import dequantize_4bit

    whole: torch.Tensor = dequantize_4bit(stored.data, stored.quant_state)
    return whole.to(getattr(layer, "compute_dtype", None) or whole.dtype)
