"""Keeps the adapters of an engine in PEFT: their names, initial values and files are PEFT's own.

PEFT folders and snapshots are safetensors, never a pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from trainables.base.base_model import Base
from trainables.inputs import safetensors_header
from trainables.packing import targets
from trainables.specs import Spec, TrialSpec

_NO_ADAPTER = "__base__"
"""PEFT's name for rows without an adapter (tuners/lora/layer.py and bnb.py, 0.21.2)."""


class PeftAdapters:
    """One adapter per slot, in PEFT's layers around those of the base. The layers stay when adapters leave.

    An engine decides how the layers compute.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._model: PeftModel | None = None
        self.parameters: dict[int, dict[str, torch.nn.Parameter]] = {}

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """Adds an adapter and returns its parameters; see `Engine.add`."""
        name = adapter_name(slot)
        config = lora_config(spec, targets.resolve(self._base.model, spec.adapter.target_modules))
        # PEFT draws initial values from the global generator. A fork of it lets the trial's seed alone decide.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            if self._model is None:
                self._model = get_peft_model(self._base.model, config, adapter_name=name)
            else:
                self._model.add_adapter(name, config)
        if spec.adapter.init == "orthogonal":
            _start_orthogonal([layer for layer in self.layers() if name in layer.lora_A], name, spec.seed)
        return self.collect(slot)

    def collect(self, slot: int) -> Mapping[str, torch.nn.Parameter]:
        """Returns the parameters that the layers hold for the slot's adapter now."""
        assert self._model is not None
        own = f".{adapter_name(slot)}."
        self.parameters[slot] = {
            each.replace(own, "."): value for each, value in self._model.named_parameters() if own in each
        }
        self._set_trainable()
        return self.parameters[slot]

    def remove(self, slot: int) -> None:
        """Removes the slot's adapter, even after an `add` that raised; see `Engine.remove`."""
        self.parameters.pop(slot, None)
        name = adapter_name(slot)
        if self._model is not None and name in self._model.peft_config:
            # PEFT warns when it deletes the active adapter and picks another one. Nothing here uses an active adapter.
            self._model.base_model.set_adapter([])
            self._model.delete_adapter(name)
        self._set_trainable()

    def _set_trainable(self) -> None:
        """Repairs requires_grad: PEFT keeps one adapter trainable when adapters come and go (tuners_utils.py)."""
        for parameters in self.parameters.values():
            for parameter in parameters.values():
                parameter.requires_grad_(True)

    def layers(self) -> list[LoraLayer]:
        """Returns the layers that have or had an adapter, in the order of the module tree."""
        modules = () if self._model is None else self._model.modules()
        return [module for module in modules if isinstance(module, LoraLayer)]

    def folder(self, slot: int) -> Mapping[str, bytes]:
        """Returns the PEFT folder of the slot's adapter; see `Engine.adapter`."""
        assert self._model is not None
        return peft_folder(self._model, adapter_name(slot))


def adapter_name(slot: int | None) -> str:
    """Returns the name of the slot's adapter in PEFT."""
    return _NO_ADAPTER if slot is None else f"slot{slot}"


@torch.no_grad()
def _start_orthogonal(layers: Sequence[LoraLayer], name: str, seed: int) -> None:
    """Draws A and B as PEFT's orthogonal_init (tuners/lora/layer.py, 0.21.2), in fp32.

    PEFT rounds them to the type of the base's weights, which in 4 bits is uint8.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            a, b, half = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.r[name] // 2
            torch.nn.Linear(a.shape[1], len(a), bias=False)  # PEFT draws these first
            torch.nn.Linear(b.shape[1], len(b), bias=False)
            q, _ = torch.linalg.qr(torch.randn(2 * half, 2 * half))
            a.copy_(torch.randn(a.shape[1], half).mm(q[0::2]).T / 10.0)
            b.copy_(torch.randn(half, len(b)).T.mm(q[1::2]) / 10.0)
            if name in layer.lora_variant:  # DoRA's lengths are those of the weight with A and B
                layer.lora_variant[name].init(layer, adapter_name=name)


# Files


class AdapterProgress(Spec):
    """The progress of a slot."""

    step: int
    tokens: int
    seconds: float


def lora_config(spec: TrialSpec, modules: Sequence[str]) -> LoraConfig:
    """Returns PEFT's configuration of the trial's adapter on the resolved target modules."""
    return LoraConfig(
        r=spec.adapter.r,
        lora_alpha=_whole(spec.adapter.alpha),
        lora_dropout=spec.adapter.lora_dropout,
        target_modules=list(modules),
        use_rslora=spec.adapter.use_rslora,
        use_dora=spec.adapter.use_dora,
        init_lora_weights="gaussian" if spec.adapter.init == "gaussian" else True,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=spec.base_model.source,
        revision=spec.base_model.revision,
    )


def peft_folder(model: PeftModel, adapter: str) -> dict[str, bytes]:
    """Returns the two files that PeftModel.from_pretrained, vLLM and TGI read.

    Uses PEFT's own state dict and configuration. save_pretrained would ask the hub whether the vocabulary of the base
    was resized (utils/save_and_load.py, 0.21.2). A rank-stabilised adapter is written as a plain one with
    alpha x sqrt(r), because SGLang 0.5.23 and llama.cpp divide by r, whatever use_rslora says. PEFT, vLLM, SGLang and
    llama.cpp accept an alpha that is no integer.
    """
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
    # How A and B started is nothing to those who load them.
    config = _plain(model.peft_config[adapter].to_dict()) | {"inference_mode": True, "init_lora_weights": True}
    if config["use_rslora"]:
        config |= {"lora_alpha": _whole(config["lora_alpha"] * math.sqrt(config["r"])), "use_rslora": False}
    return {
        "adapter_model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"}),
        "adapter_config.json": json.dumps(config, indent=2, sort_keys=True).encode(),
    }


def snapshot(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, progress: AdapterProgress
) -> bytes:
    """Returns weights, the optimizer's states and progress.

    The step decides the position in the data and the dropout masks.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value)
            if key.startswith("qmap"):  # bitsandbytes' levels, one tensor for all, which safetensors refuses
                tensors[f"{key}/{name}"] = value.clone()
    whole = {name: value.to("cpu").contiguous() for name, value in tensors.items()}
    content: bytes = safetensors.torch.save(whole, metadata={"progress": progress.model_dump_json()})
    return content


def snapshot_of(folder: Mapping[str, bytes]) -> bytes:
    """Returns a snapshot of the weights in a PEFT folder, without moments or progress."""
    saved = safetensors.torch.load(folder["adapter_model.safetensors"])
    # In a folder, PEFT names DoRA's lengths without the ending that their parameter has.
    weights = {f"{name.removesuffix('.weight')}.weight": value for name, value in saved.items()}
    metadata = {"progress": AdapterProgress(step=0, tokens=0, seconds=0.0).model_dump_json()}
    content: bytes = safetensors.torch.save({f"weight/{name}": value for name, value in weights.items()}, metadata)
    return content


def restore(
    content: bytes, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> AdapterProgress:
    """Loads a snapshot and returns its progress. Raises ValueError for a snapshot of another adapter."""
    tensors = safetensors.torch.load(content)
    kept = {name.split("/", 1)[1] for name in tensors}
    if kept != set(parameters):
        raise ValueError("the snapshot holds other modules than this adapter has")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    # PyTorch's AdamW keeps its step counter on the CPU (torch/optim/adamw.py), bitsandbytes as a number.
    counter = (lambda step: step) if isinstance(optimizer, torch.optim.AdamW) else int
    for place, value in tensors.items():
        key, name = place.split("/", 1)
        if key != "weight":
            kept_here = counter(value) if key == "step" else value.to(parameters[name].device)
            optimizer.state[parameters[name]][key] = kept_here
    return AdapterProgress.model_validate_json(safetensors_header.metadata(content)["progress"])


def _whole(alpha: float) -> float:
    """Returns an integral alpha as an integer, which some readers expect."""
    return int(alpha) if alpha == int(alpha) else alpha


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns PEFT's configuration as JSON data. Sorts sets, so that equal adapters give equal bytes."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
