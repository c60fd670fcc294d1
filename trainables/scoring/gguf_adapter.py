"""Writes a LoRA adapter as a GGUF file, and reads one back. Uses no torch.

The file has the form that llama.cpp's convert_lora_to_gguf.py writes and src/llama-adapter.cpp reads: the type is
"adapter", a module has two tensors, and llama.cpp divides `adapter.lora.alpha` by the rank, whatever training did. The
rows of Llama's q and k have llama.cpp's order, not that of transformers, as in GGUF files of the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.errors import ModelError

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Model type of transformers -> architecture of llama.cpp."""
_PERMUTED = {"llama": {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}}
"""Architecture of llama.cpp -> module whose rows are in another order -> field with its number of heads."""
_PREFIX, _PARTS = "base_model.model.", {"lora_A": "weight.lora_a", "lora_B": "weight.lora_b"}
WAY_OUT = "export --format merged, and convert the folder with llama.cpp's convert_hf_to_gguf.py"
Tensors = Mapping[str, npt.NDArray[np.float32]]
"""Name in adapter_model.safetensors -> values."""


def write(file: Path, model: Mapping[str, Any], adapter: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes the adapter.

    Args:
        model: config.json of the base.
        adapter: adapter_config.json of plain LoRA.
        tensors: (r, in) of each lora_A and (out, r) of each lora_B.

    Raises:
        ModelError: llama.cpp cannot hold this adapter.
    """
    import gguf

    if adapter.get("use_dora"):
        raise ModelError(
            "--format gguf: llama.cpp has no form for DoRA: add --merged, for base and adapter as one model"
        )
    architecture, found = places(model, {name: len(values) for name, values in tensors.items()})
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    scale = math.sqrt(adapter["r"]) if adapter.get("use_rslora") else 1.0
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter["lora_alpha"] * scale)
    for name, values in tensors.items():
        stored, order = found[name]
        writer.add_tensor(stored, np.ascontiguousarray(values[order], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(
    file: Path, model: Mapping[str, Any], tensors: Tensors
) -> tuple[float, dict[str, npt.NDArray[np.float32]]]:
    """Reads alpha, which llama.cpp divides by the rank, and the tensors, with names and row order of transformers.

    Args:
        tensors: the tensors that were written, for their names.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    stored = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    _, named = places(model, {name: len(values) for name, values in tensors.items()})
    found = {name: stored[place][np.argsort(order)] for name, (place, order) in named.items()}
    return float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents()), found


def places(model: Mapping[str, Any], rows: Mapping[str, int]) -> tuple[str, dict[str, tuple[str, npt.NDArray[Any]]]]:
    """Returns llama.cpp's architecture, and name of a tensor -> its name in llama.cpp and the order of its rows.

    Args:
        model: config.json of the base.
        rows: name of a tensor of the model, or of an adapter -> its number of rows.

    Raises:
        ModelError: llama.cpp cannot hold them.
    """
    import gguf

    architecture = _ARCHITECTURES.get(model["model_type"])
    if architecture is None:
        raise ModelError(
            f"--format gguf: models of type {model['model_type']} are not written as GGUF, only "
            f"{', '.join(_ARCHITECTURES)}: {WAY_OUT}"
        )
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], model["num_hidden_layers"])
    found = {}
    for name, count in rows.items():
        module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if part not in _PARTS:  # of the model itself
            module, _, part = name.rpartition(".")
        named = known.get_name(module)
        if named is None:
            raise ModelError(f"--format gguf: llama.cpp has no name for {name} on {architecture}")
        field = _PERMUTED.get(architecture, {}).get(module.rpartition(".")[-1]) if part != "lora_A" else None
        order = np.arange(count) if field is None else _permuted(count, int(model[field]))
        found[name] = f"{named}.{_PARTS.get(part, part)}", order
    return architecture, found


def _permuted(rows: int, heads: int) -> npt.NDArray[Any]:
    """Returns the order that alternates rows of the first and the second half of each head: llama.cpp's `permute`."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
