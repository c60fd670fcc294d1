"""Names that people read. Nothing is ever parsed out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADINGS = {"learning_rate": "lr", "lora_alpha": "alpha", "target_modules": "modules"}
"""Param -> the heading of its column in tables, where that is another word. `qsweep add` takes both."""


TRIAL_NAME = re.compile(r"t\d{2,}", re.IGNORECASE)
"""How people name a trial: see `label`."""


def label(number: int) -> str:
    """The trial of a number as tables name it: t03."""
    return f"t{number:02d}"


def sweep_run_name(name: str, sweep_id: str) -> str:
    """A name for a sweep's own run: its id, which tells sweeps of one name apart.

    An id begins with the sweep's name, unless somebody chose another one; then the name stands before it.
    """
    return sweep_id if sweep_id.startswith(name) else f"{name} {sweep_id}"


_SHORT = {"attention-qv": "qv", "attention": "attn", "all-linear": "all"}


def short_run_name(number: int, params: Mapping[str, object]) -> str:
    """The same for MLflow, whose table of runs has room for 24 characters: "t07 r32 a64 lr3.0e-4 attn"."""
    modules = str(params["target_modules"])
    return run_name(number, {**params, "target_modules": _SHORT.get(modules, modules.replace("_proj", ""))})


def run_name(number: int, params: Mapping[str, object]) -> str:
    """A name that reads well in tables and legends, which cut its end, such as "t07 r32 a64 lr3.0e-4 attention"."""
    rate = f"{float(str(params['learning_rate'])):.1e}".replace("e-0", "e-").replace("e+0", "e+")
    words = [label(number), f"r{params['r']}", f"a{params['lora_alpha']}", f"lr{rate}"]
    return " ".join([*words, str(params["target_modules"])[:24]])
