"""Stores the rates that sweeps and calibrations measured, and chooses the rate that applies to a plan.

On a busy device the time of a host's step is proportional to its tokens. On a GPU with few tokens in flight it is not,
so the rate whose load was nearest to the planned one counts.

Rates and the shapes of rows are kept in one small JSON file. The file is a convenience: an unreadable file counts as
empty, and a failed write is only reported.
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
from pydantic import ConfigDict, Field

from cluster import gpu_table
from cluster.devices import cache
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.record.whole_files import write_whole
from trainables import catalogue
from trainables.contract import RowShape
from trainables.specs import Spec, TrialSpec

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

MEASURED = 2.0
"""Factor by which a sweep may take less or more time than measured rates say: programs beside it decide most of it. Of
past sweeps on a busy machine this range held 22 of 34 (`python -m tests.benchmarks.plans`)."""
ALIKE = 0.25
"""Two measurements this many doublings apart count as equally near: rows of a few steps vary in length by chance."""
RAY_SECONDS = 10.0
"""Seconds to start Ray and its processes, where no sweep was seen here. Loading the base is not included."""
TRIAL_SECONDS = 1.0
"""Seconds of a trial besides its steps and evaluations, where no sweep was seen here."""
_SEVERAL = re.compile(r"\b\d+x ")
"""Matches the number of GPUs in the name of a device, "2x H100": a host spreads its base over these GPUs."""
MOST_SHAPES = 200
"""Shapes of rows that are kept; the latest ones stay."""


class RateKey(Spec):
    """Identifies a rate. A rate is valid for one base, precision, device, engine and pacing."""

    trainable: str
    model: str
    """Source of the base, and its revision if the sweep names one. Changed files at the same source go unnoticed."""
    quantization: str
    """Scheme and type of the activations, "nf4 float32"."""
    device: str
    """Name of the GPU, or of the processor with its threads."""
    engine: str = "peft"
    pacing: str = ""
    """Fields that only change how long a step takes and differ from their defaults: "training.eval_seconds=2"."""


class Rate(Spec):
    """Times that one sweep or calibration measured on its hosts."""

    model_config = ConfigDict(extra="ignore")  # another version may have measured more

    key: RateKey
    tokens_per_step: NotNegative
    """Mean tokens of one trial's optimizer step, without padding."""
    slots: Positive
    """Mean number of trials that shared a host's step; below `host_slots` when trials wait or are evaluated."""
    host_slots: Positive
    step_seconds: NotNegative
    """Mean seconds of a host's step, in which `slots` trials advance."""
    evaluation_seconds: NotNegative
    """Mean seconds of a host for one evaluation of one trial without answers."""
    evaluation_rows: int
    row_tokens: NotNegative
    """Mean tokens of a row to train on; 0 without data."""
    start_seconds: NotNegative
    """Seconds from the sweep's start until its hosts are ready. For a calibration: seconds to load the base."""
    trial_seconds: NotNegative
    """Seconds of the sweep in which no step or evaluation ran, per trial; 0 for a calibration."""
    steps: int
    """Measured optimizer steps."""
    time: float
    """Time of the measurement, in seconds since the epoch."""
    is_calibration: bool = False
    answers: str = ""
    """`answers_key` of the sweep; empty if no answers were scored."""
    answer_seconds: NotNegative | None = None
    """Mean seconds of a host for one evaluation of one trial with answers; None if there was none."""


@dataclass(frozen=True)
class Load:
    """Planned load of one host."""

    tokens_per_step: float
    """Mean tokens of one trial's optimizer step."""
    slots: int
    evaluation_rows: int
    row_tokens: float
    """Mean tokens of a row; 0 without data."""


@dataclass(frozen=True)
class Range:
    """An expected value and the range in which the true value is believed to lie."""

    expected: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Multiplies the expected value and both ends."""
        return Range(self.expected * factor, self.low * factor, self.high * factor)

    def plus(self, other: Range) -> Range:
        """Adds the expected values, the low ends and the high ends of both ranges."""
        return Range(self.expected + other.expected, self.low + other.low, self.high + other.high)

    @classmethod
    def about(cls, expected: float, factor: float) -> Range:
        """Returns a range from the expected value over this factor to the expected value times this factor."""
        return cls(expected, expected / factor, expected * factor)


@dataclass(frozen=True)
class Speed:
    """Times of a host under the planned load."""

    step_seconds: float
    """Seconds for one optimizer step of one trial, when all slots share the pass."""
    evaluation_seconds: float
    """Seconds for one evaluation of one trial without answers."""
    start_seconds: Range
    trial_seconds: float
    """Seconds of a trial besides its steps and evaluations."""
    factor: float
    """Factor by which all work may take less or more time."""
    source: str
    """Where the times come from, in words."""
    is_measured: bool = False
    answer_seconds: float | None = None
    """Seconds for one evaluation of one trial with answers; None if no sweep has scored answers alike."""
    start_source: str = "as measured before"
    """Where `start_seconds` comes from, in words."""

    def seconds(self, worked: float, begun: float) -> Range:
        """Returns the seconds from the command to the result of `begun` trials, whose work takes `worked` seconds.

        Other hosts do not shorten the start or the fixed time of a trial.
        """
        return Range.about(worked + begun * self.trial_seconds, self.factor).plus(self.start_seconds)


def speed(rates: Sequence[Rate], key: RateKey, load: Load, answers: str = "") -> Speed | None:
    """Returns the speed of a host under this load, from the nearest measurement; None if there is none.

    Of measurements that are about equally near, the latest counts. Overheads are medians of all sweeps, because
    a calibration measures no overhead. The device of `key` may be part of a full name: "H100 80GB" for NVIDIA H100 80GB
    HBM3. `answers` is an `answers_key`.
    """
    known = [rate for rate in rates if _applies(rate.key, key)]
    if not known:
        return None
    least = min(_distance(rate, load) for rate in known)
    nearest = max((rate for rate in known if _distance(rate, load) <= least + ALIKE), key=lambda rate: rate.time)
    sweeps = [rate for rate in known if not rate.is_calibration]
    start = median([rate.start_seconds for rate in sweeps] or [nearest.start_seconds + RAY_SECONDS])
    per_token = load.tokens_per_step / nearest.tokens_per_step if nearest.tokens_per_step else 1.0
    rows = load.evaluation_rows / nearest.evaluation_rows if nearest.evaluation_rows else 1.0
    longer = load.row_tokens / nearest.row_tokens if nearest.row_tokens and load.row_tokens else 1.0
    alike = [rate for rate in known if answers and rate.answers == answers and rate.answer_seconds is not None]
    return Speed(
        step_seconds=nearest.step_seconds / nearest.slots * per_token,
        evaluation_seconds=nearest.evaluation_seconds * rows * longer,
        start_seconds=Range.about(start, MEASURED),
        trial_seconds=median([rate.trial_seconds for rate in sweeps] or [TRIAL_SECONDS]),
        factor=MEASURED,
        source=f"from {nearest.steps} steps that were measured before",
        is_measured=True,
        answer_seconds=max(alike, key=lambda rate: rate.time).answer_seconds if alike else None,
    )


def with_rate(rates: Sequence[Rate], new: Rate, most: int = 200) -> tuple[Rate, ...]:
    """Adds a rate in place of those of the same key, kind and about the same load. Keeps the `most` latest rates."""
    others = [rate for rate in rates if _bin(rate) != _bin(new)]
    return tuple(sorted([*others, new], key=lambda rate: rate.time)[-most:])


def _applies(measured: RateKey, asked: RateKey) -> bool:
    same = measured.model_copy(update={"device": ""}) == asked.model_copy(update={"device": ""})
    return same and is_named(measured.device, asked.device)


def is_named(device: str, asked: str) -> bool:
    """Tells whether `asked` names the device, see `gpu_table.is_named`; "H100" does not name "2x H100"."""
    if [_SEVERAL.findall(name) for name in (device, asked)].count([]) == 1:
        return False
    return gpu_table.is_named(device, asked)


def _distance(rate: Rate, load: Load) -> float:
    """Returns the doublings between the measured and the planned tokens in flight, over all slots of a host."""
    measured, planned = rate.tokens_per_step * rate.host_slots, load.tokens_per_step * load.slots
    if not measured or not planned:
        return abs(math.log2(load.slots / rate.host_slots))
    return abs(math.log2(planned / measured))


def _bin(rate: Rate) -> tuple[RateKey, int, int, bool, str]:
    tokens = round(math.log2(rate.tokens_per_step) * 2) if rate.tokens_per_step else 0
    return rate.key, tokens, round(rate.host_slots), rate.is_calibration, rate.answers


class Remembered(Spec):
    """The file's content."""

    rates: tuple[Rate, ...] = ()
    shapes: dict[str, RowShape] = Field(default_factory=dict)

    def shape(self, config: SweepConfig) -> RowShape | None:
        """Returns the shape of a sweep's rows that an earlier sweep or calibration found; None if unknown."""
        return self.shapes.get(data_key(config)) if config.data is not None else None


def file() -> Path:
    """Returns the path of the file: $QSWEEP_RATES, else rates.json in the cache folder."""
    return Path(os.environ.get("QSWEEP_RATES") or cache() / "rates.json")


def read_rates(path: Path) -> Remembered:
    """Reads a file; returns nothing remembered if the file is missing or unreadable."""
    try:
        return Remembered.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return Remembered()


def remember(path: Path, rate: Rate | None, shapes: Mapping[str, RowShape]) -> None:
    """Adds a rate and shapes to the file, under a lock; raises OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        known = read_rates(path)
        rates = with_rate(known.rates, rate) if rate is not None else known.rates
        older = {key: shape for key, shape in known.shapes.items() if key not in shapes}
        newest = dict([*older.items(), *shapes.items()][-MOST_SHAPES:])
        write_whole(path, Remembered(rates=rates, shapes=newest).model_dump_json(indent=1).encode())


def rate_key(config: SweepConfig, device_name: str) -> RateKey:
    """Returns the key of this sweep's rate; `device_name` is a name by `cluster.devices.name`, or a part of one."""
    model = config.model
    source = config.trainable if model is None else model.source
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
    """Hashes what decides the time of answers, `evaluation` and the rows, to 12 hex digits; empty without answers."""
    if not config.evaluation.metrics:
        return ""
    identity = config.evaluation.model_dump_json(exclude={"when", "rows", "rows_factor"}) + (
        data_key(config) if config.data else ""
    )
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _pacing(base: TrialSpec) -> str:
    """Returns the pacing fields of `base` that differ from their defaults, "FIELD=VALUE" each."""
    usual = TrialSpec(trainable=base.trainable, steps=base.steps, seed=base.seed)
    values = {field: points.base_value(base, field) for field in points.PACING}
    return ", ".join(f"{field}={value}" for field, value in values.items() if value != points.base_value(usual, field))


def data_key(config: SweepConfig) -> str:
    """Hashes a sweep's rows to 12 hex digits: `data`, the sizes of its files, and the model for its tokenizer."""
    assert config.data is not None, "a sweep without data has no rows"
    train = config.data.train
    sources = [*((train,) if isinstance(train, str) else train), config.data.eval or ""]
    files = [[Path(source), *Path(source).rglob("*")] if source else [] for source in sources]
    sizes = [sum(each.stat().st_size for each in of if each.is_file()) for of in files]
    model = config.model
    # Left out where it is off: the rows that rates of earlier versions are known by had no such field.
    rows = config.data.model_dump(exclude=set() if config.data.all_rows else {"all_rows"})
    identity = [rows, sizes, model and [model.source, model.revision]]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
