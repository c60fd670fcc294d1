"""Keeps the adapters of an engine in PEFT: their names, initial values and files are PEFT's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from trainables.base.base_model import Base
from trainables.packing import adapter_files, targets
from trainables.specs import TrialSpec

_NO_ADAPTER = "__base__"
"""PEFT's name for rows without an adapter (tuners/lora/layer.py and bnb.py, 0.21.2)."""


class PeftAdapters:
    """One adapter per slot, in the layers that PEFT puts in place of the base's. The layers stay when adapters leave.

    An engine decides how the layers compute.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._model: PeftModel | None = None
        self.parameters: dict[int, dict[str, torch.nn.Parameter]] = {}
        """The parameters of each slot's adapter."""

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """Adds an adapter and returns its parameters; see `Engine.add`."""
        name = adapter_name(slot)
        config = adapter_files.lora_config(spec, targets.resolve(self._base.model, spec.adapter.target_modules))
        # PEFT draws initial values from the global generator. A fork of it lets the trial's seed alone decide.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            if self._model is None:
                self._model = get_peft_model(self._base.model, config, adapter_name=name)
            else:
                self._model.add_adapter(name, config)
        own = f".{name}."
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
            # PEFT warns when it deletes the active adapter and picks another. Nothing here uses the active adapter.
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
        return adapter_files.peft_folder(self._model, adapter_name(slot))


def adapter_name(slot: int | None) -> str:
    """Returns the name of the slot's adapter in PEFT."""
    return _NO_ADAPTER if slot is None else f"slot{slot}"
