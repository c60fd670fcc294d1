"""The schemes that quantise the frozen base, each of which answers for itself.

Another scheme is a `SchemeName`, an entry of `SCHEMES`, and a branch of `weight` if its layers keep weights in a form
of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

SchemeName = Literal["nf4", "fp4", "none"]
Residency = Literal["4bit", "dequantised"]


@dataclass(frozen=True)
class Scheme:
    """The form of the linear layers in the blocks. The defaults are those of a base that is not quantised."""

    words: str = "not quantised"
    residencies: tuple[Residency, ...] = ("dequantised",)
    """Forms in memory while adapters train, the one as loaded first."""
    packages: tuple[str, ...] = ()
    """What loads and computes such a base, beside torch and transformers."""
    vllm_option: str | None = ""
    """The option with which vLLM quantises a base in the same way; None if it cannot."""

    @property
    def is_quantised(self) -> bool:
        """Whether the linear layers are quantised."""
        return "4bit" in self.residencies

    def linear_bytes(self, is_double: bool) -> float:
        """Returns the bytes of a quantised weight in a linear layer, with its share of the constants.

        bitsandbytes 0.50 takes half a byte, and a constant per 64 weights. The constant is fp32, or with double
        quantisation one byte plus an fp32 constant per 256 of them (QLoRA, arXiv 2305.14314, section 3).
        """
        return 0.5 + ((1 + 4 / 256) / 64 if is_double else 4 / 64)

    def options(self, is_double: bool, dtype: str) -> dict[str, Any]:
        """Returns what `BitsAndBytesConfig` is given to load such a base with activations of type `dtype`; else {}."""
        if not self.is_quantised:
            return {}
        kind = {"load_in_4bit": True, "bnb_4bit_quant_type": self.words}
        return {**kind, "bnb_4bit_use_double_quant": is_double, "bnb_4bit_compute_dtype": dtype}


SCHEMES = {
    # vLLM quantises to nf4 with double quantisation, and to nothing else (model_loader/bitsandbytes_loader.py).
    "nf4": Scheme("nf4", ("4bit", "dequantised"), ("bitsandbytes",), " --quantization bitsandbytes"),
    "fp4": Scheme("fp4", ("4bit", "dequantised"), ("bitsandbytes",), None),
    "none": Scheme(),
}


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
