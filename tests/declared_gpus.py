"""Two GPUs that torch is told of, on a machine without any: tensors remember where they lie, and do not mix.

A `Placed` tensor computes on the CPU, says that it lies on a GPU, and raises where an operator is given tensors of two
devices. So real numbers, gradients and hooks can be checked, which torch's fake tensors cannot do without CUDA: torch
ends the process when autograd meets one (torch 2.13, CPU build, InputMetadata asks for a device guard).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import tiny_models
import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from trainables.base import spread
from trainables.base.base_model import Base
from trainables.specs import QuantizationSpec

GPUS = (torch.device("cuda", 0), torch.device("cuda", 1))
CPU = torch.device("cpu")


_SEEN: set[torch.device] = set()


def seen() -> set[torch.device]:
    """The devices that tensors were placed on since the latest `declared`."""
    return set(_SEEN)


class WaitsError(RuntimeError):
    """The host asked a GPU for a number, or for a size that depends on numbers: it would wait for all kernels."""


_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "_unique2", "bincount"}
_may_wait = [True]


@contextmanager
def without_waiting() -> Iterator[None]:
    """In this block the host may not wait for a GPU."""
    _may_wait.append(False)
    try:
        yield
    finally:
        _may_wait.pop()


def _waits(what: object) -> None:
    if not _may_wait[-1]:
        raise WaitsError(f"{what} waits for a GPU")


class Placed(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    held: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: torch.Tensor, place: torch.device):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.held, made.place = inner.detach(), place
        _SEEN.add(place)
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Placed({self.held}, {self.place})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return move(self, CPU)

    def tolist(self) -> Any:
        _waits("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        kwargs = kwargs or {}
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
        found = {each.place for each in tensors if isinstance(each, Placed)}
        by_mask = func.overloadpacket is torch.ops.aten.index and any(each.dtype == torch.bool for each in tensors[1:])
        if by_mask or func.overloadpacket.__name__ in _WAITS:
            _waits(func)
        # As in torch: a copy crosses, a number on the CPU goes with any device, and so does an index there. In backward
        # passes torch makes zeros to write to without asking a tensor where it lies.
        aten = torch.ops.aten
        crosses = func.overloadpacket in (aten.copy_, aten._foreach_copy_)
        may_be_plain = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_)
        plain = [each for each in tensors if not isinstance(each, Placed) and each.dim() > 0]
        if not crosses and (len(found) > 1 or (plain and not may_be_plain)):
            shown = sorted(str(getattr(each, "place", CPU)) for each in tensors)
            raise RuntimeError(f"{func} is given tensors on {', '.join(shown)}")
        place = next(each.place for each in tensors if isinstance(each, Placed))
        inner = tree_map(lambda each: each.held if isinstance(each, Placed) else each, (args, kwargs))
        out = func(*inner[0], **inner[1])
        out = tree_map(lambda each: Placed(each, place) if isinstance(each, torch.Tensor) else each, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def place_of(tensor: torch.Tensor) -> torch.device:
    """Where a tensor says that it lies."""
    return tensor.place if isinstance(tensor, Placed) else CPU


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
        ctx.came_from = place_of(tensor)
        if place.type == "cpu":
            _waits("a copy to the CPU")
        inner = tensor.held if isinstance(tensor, Placed) else tensor.detach()
        return inner.clone() if place.type == "cpu" else Placed(inner.clone(), place)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Move.apply(gradient, ctx.came_from), None


def move(tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
    """The tensor on another device; itself where it lies there."""
    return tensor if place_of(tensor) == place else _Move.apply(tensor, place)


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.Tensor.to`."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for each in args:
        if isinstance(each, torch.Tensor):
            device, dtype = place_of(each), each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, torch.device | str | int) and not isinstance(each, bool):
            device = each
    there = tensor if device is None else move(tensor, _place(device))
    return there if dtype is None or there.dtype == dtype else there.type(dtype)


def _place(device: Any) -> torch.device:
    named = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return GPUS[0] if named.type == "cuda" and named.index is None else named


def _made_there(make: Any) -> Any:
    """A function of torch that makes tensors, for devices that are declared."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return make(*args, **kwargs) if device is None else move(make(*args, **kwargs), _place(device))

    return made


@contextmanager
def declared(monkeypatch: Any) -> Iterator[None]:
    """In this block torch takes `GPUS` for real."""
    _SEEN.clear()
    generator = torch.Generator
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", _to)
        for name in ("arange", "empty", "full", "ones", "rand", "tensor", "zeros"):
            patch.setattr(torch, name, _made_there(getattr(torch, name)))
        patch.setattr(torch, "Generator", lambda device=None: generator())
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        # Else Module.to would keep the tensor and change what it holds, and it could not become a `Placed` one.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        optimizer = import_module("torch.optim.optimizer")
        patch.setattr(optimizer, "_foreach_supported_types", [torch.Tensor, torch.nn.Parameter, Placed])
        yield


def _grouped(lists: Any, with_indices: bool = False) -> Any:
    """torch's grouping of tensors for its operators on lists, which it does in C++, by where they say that they lie."""
    found: dict[Any, list[int]] = {}
    for row, first in enumerate(lists[0]):
        found.setdefault((place_of(first), first.dtype), []).append(row)
    return {
        key: ([[whole[row] for row in rows] if whole else [] for whole in lists], rows if with_indices else None)
        for key, rows in found.items()
    }


def spread_out(base: Base, architecture: str, layers: int) -> Base:
    """The base with its blocks on both GPUs, as `base_model.load` puts them."""
    mapped = spread.device_map(
        "tiny/model", tiny_models.build(architecture, layers), GPUS, 4, QuantizationSpec(scheme="none")
    )
    kept: dict[int, torch.nn.Parameter] = {}
    for name, place in mapped.items():
        _put(base.model.get_submodule(name), place, kept)
    spread.connect(base.model, mapped)
    return Base(base.model, GPUS[0], base.dtype)


def _put(module: torch.nn.Module, place: torch.device, kept: dict[int, torch.nn.Parameter]) -> None:
    """Puts a module onto a GPU; `kept` has what was put there before, as tied weights stay one."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if id(parameter) not in kept:
                there: Any = torch.nn.Parameter(Placed(parameter.data, place), requires_grad=False)
                if hasattr(parameter, "quant_state"):
                    there.quant_state = replace(parameter.quant_state, lambda held: Placed(held, place))
                kept[id(parameter)] = there
            part._parameters[name] = kept[id(parameter)]
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = Placed(buffer, place)


def replace(state: Any, by: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The constants of a 4-bit weight, each replaced."""
    for name, value in vars(state).items():
        if isinstance(value, torch.Tensor):
            setattr(state, name, by(value))
    if state.nested:
        replace(state.state2, by)
    return state
