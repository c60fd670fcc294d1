"""`qsweep schema`."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON Schema of the sweep file, for editors."""
    from sweeps.config.model import SweepConfig

    print(json.dumps(SweepConfig.model_json_schema(), indent=2))
