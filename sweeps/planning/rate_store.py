"""What this machine remembers from one sweep to the next: rates, and the shape of rows. One small JSON file.

The file is a convenience: one that cannot be read counts as empty, and one that cannot be written is told, no more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock
from pydantic import Field

from cluster.devices import cache
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import without_passwords
from sweeps.planning.rates import Rate, RateKey, kept
from sweeps.record.whole_files import write_whole
from trainables import catalogue
from trainables.contract import RowShape
from trainables.specs import Spec, TrialSpec

MOST_SHAPES = 200


class Remembered(Spec):
    """The file's content."""

    rates: tuple[Rate, ...] = ()
    shapes: dict[str, RowShape] = Field(default_factory=dict)

    def shape(self, config: SweepConfig) -> RowShape | None:
        """The shape of a sweep's rows as an earlier sweep or calibration found them; None when it is not known."""
        return self.shapes.get(data_key(config)) if config.data is not None else None


def place() -> Path:
    """The file: $QSWEEP_RATES, else in the cache folder."""
    return Path(os.environ.get("QSWEEP_RATES") or cache() / "rates.json")


def read(path: Path) -> Remembered:
    """What is remembered in a file; nothing when there is none that can be read."""
    try:
        return Remembered.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return Remembered()


def remember(path: Path, rate: Rate | None, shapes: Mapping[str, RowShape]) -> None:
    """Adds to what is remembered; two that do so at once both come in.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        known = read(path)
        rates = kept(known.rates, rate) if rate is not None else known.rates
        older = {key: shape for key, shape in known.shapes.items() if key not in shapes}
        newest = dict([*older.items(), *shapes.items()][-MOST_SHAPES:])
        write_whole(path, Remembered(rates=rates, shapes=newest).model_dump_json(indent=1).encode())


def rate_key(config: SweepConfig, device_name: str) -> RateKey:
    """What a rate of this sweep is of; `device_name` is as `cluster.devices.name` tells it, or a part of that."""
    model = config.model
    source = config.trainable if model is None else without_passwords(model.source)
    revision = f"@{model.revision}" if model is not None and model.revision is not None else ""
    scheme = f"{config.quantization.scheme} {config.quantization.compute_dtype}"
    return RateKey(
        trainable=config.trainable,
        model=source + revision,
        quantization=scheme if model is not None else "none",
        device=device_name,
        engine=catalogue.engine(catalogue.find(config.trainable), config.base) or "peft",
        pacing=_pacing(config.base),
    )


def _pacing(base: TrialSpec) -> str:
    """Fields of `base` that only pace and are not the default, "FIELD=VALUE" each."""
    usual = TrialSpec(trainable=base.trainable, steps=base.steps, seed=base.seed)
    values = {field: points.base_value(base, field) for field in points.PACING}
    return ", ".join(f"{field}={value}" for field, value in values.items() if value != points.base_value(usual, field))


def data_key(config: SweepConfig) -> str:
    """12 hex digits for a sweep's rows under its model's tokenizer: where they are, how they read, and their size."""
    assert config.data is not None, "a sweep without data has no rows"
    sources = [config.data.train, config.data.eval or ""]
    sizes = [path.stat().st_size if (path := Path(source)).is_file() else 0 for source in sources]
    model = config.model
    identity = [config.data.model_dump(), sizes, model and [model.source, model.revision]]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
