"""Spreads the blocks of a base over several GPUs of one machine, for bases that fit no single one.

The blocks lie on the GPUs in order, about as many bytes on each GPU. The rest lies on the first GPU: embeddings,
position tables, the last norm and the head, which may share the weights of the embeddings. So tokens go in on the first
GPU, and hidden states come out there. A block moves its inputs to its own GPU, and the last block moves its output
back.

transformers (integrations/accelerate.py, _get_device_map, 5.24) would fill GPUs by rules that depend on free memory,
and put the head on the last GPU. accelerate (big_modeling.py, dispatch_model, 1.15) would hook every module with
weights; its hooks are removed, so that only the hooks of the blocks move tensors.

An adapter lies with the layer that it changes: PEFT puts it there (tuners/tuners_utils.py,
_move_adapter_to_device_of_base_layer, 0.21.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trainables.errors import ModelError
from trainables.specs import QuantizationSpec

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def linear_bytes(quantization: QuantizationSpec, width: int) -> float:
    """Returns the bytes that a weight of a linear layer counts when blocks are distributed.

    `residency: auto` counts as quantised, since it dequantises only small bases.
    """
    if not quantization.traits.is_quantised or quantization.residency == "dequantised":
        return width
    return quantization.traits.linear_bytes(quantization.double_quant)


def places(blocks: Sequence[float], outside: float, gpus: int) -> list[int]:
    """Returns the GPU of each block, in rising order, so that each GPU holds about as many bytes.

    Args:
        blocks: bytes of each block, in order.
        outside: bytes of all else, which the first GPU holds.
    """
    each = (outside + sum(blocks)) / gpus
    found, before = [], outside
    for size in blocks:
        found.append(min(gpus - 1, int((before + size / 2) / each)))
        before += size
    return found


def device_map(
    source: str, skeleton: nn.Module, devices: Sequence[torch.device], width: int, quantization: QuantizationSpec
) -> dict[str, torch.device]:
    """Returns name of a module or parameter -> GPU, for `from_pretrained`. A name includes everything below it.

    The name "" has no entry, because accelerate would put its parts on any of the GPUs.

    Args:
        source: the model, for messages.
        skeleton: modules of the model, without weights.
        devices: the GPUs, two or more.
        width: bytes of a weight that is not quantised.
        quantization: tells whether the linear layers of the blocks are quantised.

    Raises:
        ModelError: the model has no list of blocks.
    """
    name, blocks = _blocks(source, skeleton)
    sizes = [_bytes(block, width, linear_bytes(quantization, width)) for block in blocks]
    outside = sum(tensor.numel() for tensor in skeleton.parameters()) * width
    outside -= sum(parameter.numel() for parameter in blocks.parameters()) * width
    found = dict.fromkeys(_around(skeleton, name), devices[0])
    placed = places(sizes, max(0, outside), len(devices))
    found |= {f"{name}.{number}": devices[place] for number, place in enumerate(placed)}
    return found


def connect(model: PreTrainedModel, mapped: Mapping[str, torch.device]) -> None:
    """Makes the blocks of a model move their inputs and outputs. `mapped` is the result of `device_map`."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    name, blocks = _blocks(model.name_or_path, model)
    first = model.get_input_embeddings().weight.device
    own = [mapped[f"{name}.{number}"] for number in range(len(blocks))]
    for block, device in zip(blocks, own, strict=True):
        if device != first:
            block.register_forward_pre_hook(partial(_arrive, device), with_kwargs=True)
    if own[-1] != first:
        blocks[-1].register_forward_hook(lambda _block, _args, output: moved(output, first))


def moved(value: Any, device: torch.device) -> Any:
    """Returns `value` with all tensors in it on `device`: in tuples, lists and dictionaries, at any depth."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        there = [moved(each, device) for each in value]
        if all(new is old for new, old in zip(there, value, strict=True)):
            return value
        return type(value)(*there) if hasattr(value, "_fields") else type(value)(there)
    return value


def _arrive(
    device: torch.device, _block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return moved(args, device), moved(kwargs, device)


def _blocks(source: str, model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Returns name and modules of the list with the most parameters: the blocks of a decoder."""
    from torch.nn import ModuleList

    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, ModuleList)]
    if not lists:
        raise ModelError(
            f"model.source: {source!r} has no list of blocks to spread over GPUs: set cluster.gpus_per_host=1"
        )
    return max(lists, key=lambda each: sum(parameter.numel() for parameter in each[1].parameters()))


def _bytes(block: nn.Module, width: int, linear_width: float) -> float:
    from torch.nn import Linear

    whole = sum(parameter.numel() for parameter in block.parameters())
    linear = sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, Linear))
    return (whole - linear) * width + linear * linear_width


def _around(model: nn.Module, name: str) -> list[str]:
    """Returns names that include all modules, parameters and buffers except those below `name`."""
    found, parents = [], name.split(".")
    for depth in range(len(parents)):
        prefix = ".".join(parents[:depth])
        parent = model.get_submodule(prefix)
        of_parent = [child for child, _ in parent.named_children() if child != parents[depth]]
        of_parent += [own for own, _ in parent.named_parameters(recurse=False)]
        of_parent += [own for own, _ in parent.named_buffers(recurse=False)]
        found += [f"{prefix}.{each}" if prefix else each for each in of_parent]
    return found
