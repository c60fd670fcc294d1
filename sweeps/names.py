"""Names that people read. Nothing is ever parsed out of them."""

from __future__ import annotations

from collections.abc import Mapping


def run_name(number: int, params: Mapping[str, object]) -> str:
    """A name that reads well in tables and legends, such as "t07 r32 a64 attention lr3.0e-04"."""
    words = [f"t{number:02d}", f"r{params['r']}", f"a{params['lora_alpha']}", str(params["target_modules"])[:24]]
    return " ".join([*words, f"lr{float(str(params['learning_rate'])):.1e}"])
