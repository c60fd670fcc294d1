"""Names of trials and runs for people. No code reads values out of a run's name."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADINGS = {"learning_rate": "lr", "lora_alpha": "alpha", "target_modules": "modules"}
"""Param -> heading of its column in tables, if the heading is another word. `qsweep add` takes both."""


TRIAL_NAME = re.compile(r"t\d{2,}", re.IGNORECASE)
"""Matches a trial's name as users type it; see `label`."""


def label(number: int) -> str:
    """Returns the name of a trial in tables, such as "t03"."""
    return f"t{number:02d}"


def sweep_run_name(name: str, sweep_id: str) -> str:
    """Returns a name for a sweep's own run. The name holds the id, which tells sweeps of one name apart.

    If a user chose an id that does not begin with the sweep's name, the sweep's name stands before the id.
    """
    return sweep_id if sweep_id.startswith(name) else f"{name} {sweep_id}"


_SHORT = {"attention-qv": "qv", "attention": "attn", "all-linear": "all"}


def short_run_name(number: int, params: Mapping[str, object]) -> str:
    """Returns `run_name` with short modules for the 24 characters of MLflow's table: "t07 r32 a64 lr3.0e-4 attn"."""
    modules = str(params["target_modules"])
    return run_name(number, {**params, "target_modules": _SHORT.get(modules, modules.replace("_proj", ""))})


def run_name(number: int, params: Mapping[str, object]) -> str:
    """Returns a name such as "t07 r32 a64 lr3.0e-4 attention". Tables and legends cut its end."""
    rate = f"{float(str(params['learning_rate'])):.1e}".replace("e-0", "e-").replace("e+0", "e+")
    words = [label(number), f"r{params['r']}", f"a{params['lora_alpha']}", f"lr{rate}"]
    return " ".join([*words, str(params["target_modules"])[:24]])
