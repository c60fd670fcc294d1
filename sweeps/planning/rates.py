"""How fast a kind of machine has trained a model, as earlier sweeps and calibrations found, and which rate applies.

A host's step takes time in proportion to its tokens on a device that is busy; on a GPU with few tokens in flight the
step takes less, so a rate that was measured far from what is planned has a wider range.

Rates and the shapes of rows are remembered in one small JSON file. The file is a convenience: one that cannot be read
counts as empty, and one that cannot be written is told, no more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

from filelock import FileLock
from pydantic import Field

from cluster import gpu_table
from cluster.devices import cache
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import without_passwords
from sweeps.record.whole_files import write_whole
from trainables import catalogue
from trainables.contract import RowShape
from trainables.specs import Spec, TrialSpec

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

LEAST_RANGE = 0.15
"""A rate that was measured for the very case is held to be right within this share: machines are shared and warm up."""
FAR_RANGE = 0.25
"""What each doubling (or halving) of the tokens in flight between what was measured and what is planned adds."""
ALIKE = 0.25
"""Doublings within which two measurements are equally near: the rows of a few steps are longer or shorter by chance."""
MOST_RANGE = 0.75
RAY_SECONDS = 10.0
"""What a sweep takes to start beside loading its base, where no sweep has been seen here: Ray and its processes."""
TRIAL_SECONDS = 1.0
"""What a trial takes beside its steps and evaluations, where no sweep has been seen here."""
RECENT = 5
"""Sweeps whose overheads count, the latest ones."""
_SEVERAL = re.compile(r"\b\d+x ")
"""In the name of a device: the GPUs over which a host spreads its base, "2x H100"."""
MOST_SHAPES = 200
"""Shapes of rows that are remembered, the latest ones."""


class RateKey(Spec):
    """What a rate is of: another base, precision or device is another rate."""

    trainable: str
    model: str
    """Source of the base, with its revision where the sweep names one; another base put in its place is not noticed."""
    quantization: str
    """Scheme and type of the activations, "nf4 float32"."""
    device: str
    """Name of the GPU, or of the processor with its threads."""
    engine: str = "peft"
    """What computes the losses."""
    pacing: str = ""
    """The fields that only change how long a step takes, where they are not the default: "training.eval_seconds=2"."""


class Rate(Spec):
    """What one sweep or calibration measured on its hosts."""

    key: RateKey
    tokens_per_step: NotNegative
    """Mean tokens of one trial's optimizer step, padding not counted."""
    slots: Positive
    """Trials that shared a host's step, on average: fewer than it has slots where trials wait or are evaluated."""
    host_slots: Positive
    """Slots of the host."""
    step_seconds: NotNegative
    """Mean time of a host's step, for all of these slots."""
    evaluation_seconds: NotNegative
    """Mean time of a host for one evaluation of one trial."""
    evaluation_rows: int
    row_tokens: NotNegative
    """Mean tokens of a row to train on; 0 where there are no rows."""
    start_seconds: NotNegative
    """From the sweep's start until its hosts are ready; for a calibration, what the base took to load."""
    trial_seconds: NotNegative
    """Time of the sweep that is neither step nor evaluation, for each trial; 0 of a calibration."""
    spread: NotNegative
    """Standard deviation of the steps' seconds per token, as a share of their mean."""
    steps: int
    """Optimizer steps that were measured."""
    time: float
    """When, in seconds since the epoch."""
    is_calibration: bool = False
    answers: str = ""
    """How answers were scored, as `answers_key` tells it; empty where no evaluation was scored."""
    answer_seconds: NotNegative | None = None
    """Mean time of a host for one evaluation of one trial whose answers were scored; None where there was none."""


@dataclass(frozen=True)
class Load:
    """What a sweep would ask of one host at a time."""

    tokens_per_step: float
    slots: int
    evaluation_rows: int
    row_tokens: float
    """Mean tokens of a row; 0 where there are none."""


@dataclass(frozen=True)
class Range:
    """An expected value and the range that the value is believed to be in."""

    expected: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """All three, multiplied."""
        return Range(self.expected * factor, self.low * factor, self.high * factor)

    def by(self, other: Range) -> Range:
        """All three, each multiplied by that of the other."""
        return Range(self.expected * other.expected, self.low * other.low, self.high * other.high)

    def plus(self, other: Range) -> Range:
        """Both together, each of them at the same end of its range."""
        return Range(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def wider(self, share: float) -> Range:
        """The range, so much lower and higher."""
        return Range(self.expected, self.low * (1 - share), self.high * (1 + share))


@dataclass(frozen=True)
class Speed:
    """Seconds of a host for the planned load."""

    step_seconds: float
    """For one optimizer step of one trial, when its neighbours' steps share the pass."""
    evaluation_seconds: float
    start_seconds: Range
    trial_seconds: Range
    off: Range
    """How much faster and slower steps and evaluations may be: about 1."""
    source: str
    """Where it comes from, in words."""
    is_measured: bool = False
    answer_seconds: float | None = None
    """For one evaluation of one trial whose answers are scored; None where no sweep has scored them alike."""


def speed(rates: Sequence[Rate], key: RateKey, load: Load, answers: str = "") -> Speed | None:
    """The speed of a host of this kind under this load, from the measurement closest to it; None without any.

    Of those that are about as close the latest counts. Overheads are the median of the latest sweeps: a calibration has
    none.

    Args:
        key: of the base and the device. A device may be words of a full name: "H100 80GB" for NVIDIA H100 80GB HBM3.
        answers: how answers are scored, as `answers_key` tells it.
    """
    known = [rate for rate in rates if _applies(rate.key, key)]
    if not known:
        return None
    least = min(_distance(rate, load) for rate in known)
    nearest = max((rate for rate in known if _distance(rate, load) <= least + ALIKE), key=lambda rate: rate.time)
    sweeps = [rate for rate in known if not rate.is_calibration]
    recent = sorted(sweeps, key=lambda rate: rate.time)[-RECENT:]
    per_token = load.tokens_per_step / nearest.tokens_per_step if nearest.tokens_per_step else 1.0
    rows = load.evaluation_rows / nearest.evaluation_rows if nearest.evaluation_rows else 1.0
    longer = load.row_tokens / nearest.row_tokens if nearest.row_tokens and load.row_tokens else 1.0
    alike = [rate for rate in known if answers and rate.answers == answers and rate.answer_seconds is not None]
    far = FAR_RANGE * _distance(nearest, load)
    off = min(MOST_RANGE, max(LEAST_RANGE, nearest.spread / math.sqrt(max(1, nearest.steps))) + far)
    return Speed(
        step_seconds=nearest.step_seconds / nearest.slots * per_token,
        evaluation_seconds=nearest.evaluation_seconds * rows * longer,
        start_seconds=overhead([rate.start_seconds for rate in recent], nearest.start_seconds + RAY_SECONDS),
        trial_seconds=overhead([rate.trial_seconds for rate in recent], TRIAL_SECONDS),
        off=Range(1, 1, 1).wider(off),
        source=f"from {nearest.steps} steps that were measured before",
        is_measured=True,
        answer_seconds=max(alike, key=lambda rate: rate.time).answer_seconds if alike else None,
    )


def overhead(seen: Sequence[float], unseen: float) -> Range:
    """The median of what sweeps have shown, from the least to the most of them; about `unseen` where none has."""
    if not seen:
        return Range(unseen, unseen, unseen).wider(LEAST_RANGE + FAR_RANGE)
    middle = median(seen)
    about = Range(middle, middle, middle).wider(LEAST_RANGE)
    return Range(middle, min(about.low, *seen), max(about.high, *seen))


def kept(rates: Sequence[Rate], new: Rate, most: int = 200) -> tuple[Rate, ...]:
    """The rates with a new one: it takes the place of those of its kind and load; the oldest go beyond `most`."""
    others = [rate for rate in rates if _place(rate) != _place(new)]
    return tuple(sorted([*others, new], key=lambda rate: rate.time)[-most:])


def _applies(measured: RateKey, asked: RateKey) -> bool:
    same = measured.model_copy(update={"device": ""}) == asked.model_copy(update={"device": ""})
    return same and is_named(measured.device, asked.device)


def is_named(device: str, asked: str) -> bool:
    """As `gpu_table.is_named`; hosts of 2 GPUs are no hosts of one."""
    if [_SEVERAL.findall(name) for name in (device, asked)].count([]) == 1:
        return False
    return gpu_table.is_named(device, asked)


def _distance(rate: Rate, load: Load) -> float:
    """Doublings between the tokens that a host has in flight with all its slots, measured and planned."""
    measured, planned = rate.tokens_per_step * rate.host_slots, load.tokens_per_step * load.slots
    if not measured or not planned:
        return abs(math.log2(load.slots / rate.host_slots))
    return abs(math.log2(planned / measured))


def _place(rate: Rate) -> tuple[RateKey, int, int, bool, str]:
    tokens = round(math.log2(rate.tokens_per_step) * 2) if rate.tokens_per_step else 0
    return rate.key, tokens, round(rate.host_slots), rate.is_calibration, rate.answers


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


def answers_key(config: SweepConfig) -> str:
    """12 hex digits for what decides how long answers take, `evaluation` and the rows; empty where none are scored."""
    if not config.evaluation.metrics:
        return ""
    identity = config.evaluation.model_dump_json(exclude={"when"}) + (data_key(config) if config.data else "")
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


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
