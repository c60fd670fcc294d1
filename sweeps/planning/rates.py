"""How fast a kind of machine has trained a model, as earlier sweeps and calibrations found, and which of it applies.

Pure: what was measured comes in, seconds come out. A host's step takes time in proportion to its tokens on a device
that is busy; on a GPU with few tokens in flight it takes less, so a rate that was measured far from what is planned
has a wider range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from pydantic import Field

from trainables.specs import Spec

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
"""Sweeps whose overheads count, the latest ones: their median, and how far they are from it."""
_SEVERAL = re.compile(r"\b\d+x ")
"""In the name of a device: the GPUs over which a host spreads its base, "2x H100"."""
_WORD = re.compile(r"[\w.]+")
UNKNOWN = "unknown: run `qsweep plan FILE --calibrate`"


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
    """What computes the losses. Rates of versions that knew no other are PEFT's."""
    pacing: str = ""
    """The fields that only change how long a step takes, where they are not the default: "training.eval_seconds=2"."""


class Rate(Spec):
    """What one sweep or calibration measured on its hosts."""

    key: RateKey
    tokens_per_step: NotNegative
    """Mean tokens of one trial's optimizer step, padding not counted."""
    slots: Positive
    """Trials that shared a host's step, on average: fewer than it has slots where trials wait or are evaluated."""
    host_slots: Positive | None = None
    """Slots of the host; None in rates of versions that did not say it."""
    step_seconds: NotNegative
    """Mean time of a host's step, for all of these slots."""
    evaluation_seconds: NotNegative
    """Mean time of a host for one evaluation of one trial."""
    evaluation_rows: int
    row_tokens: NotNegative
    """Mean tokens of a row to train on; 0 where there are no rows."""
    start_seconds: NotNegative
    """From the sweep's start to its hosts' being ready; of a calibration, what the base took to load."""
    trial_seconds: NotNegative
    """Time of the sweep that is neither step nor evaluation, for each trial; 0 of a calibration."""
    spread: NotNegative
    """Standard deviation of the steps' seconds per token, as a share of their mean."""
    steps: int
    """Optimizer steps that were measured."""
    time: float
    """When, in seconds since the epoch."""
    is_calibration: bool = False


@dataclass(frozen=True)
class Load:
    """What a sweep would ask of one host at a time."""

    tokens_per_step: float
    slots: int
    evaluation_rows: int
    row_tokens: float
    """Mean tokens of a row; 0 where there are none."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a host for the planned load."""

    step_seconds: float
    """For one optimizer step of one trial, when its neighbours' steps share the pass."""
    evaluation_seconds: float
    start_seconds: float
    trial_seconds: float
    uncertainty: float
    """Share by which steps and evaluations may be faster or slower."""
    start_uncertainty: float
    """Share by which the start may be shorter or longer."""
    trial_uncertainty: float
    """Share by which `trial_seconds` may be less or more."""
    measured: int
    """Steps behind it."""


def speed(rates: Sequence[Rate], key: RateKey, load: Load) -> Speed | None:
    """The speed of a host of this kind under this load, from the measurement closest to it; None without any.

    Of those that are about as close the latest counts. Overheads are the median of the latest sweeps: a calibration has
    none.

    Args:
        key: of the base and the device. A device may be words of a full name: "H100 80GB" for NVIDIA H100 80GB HBM3.
    """
    known = [rate for rate in rates if _applies(rate.key, key)]
    if not known:
        return None
    least = min(_distance(rate, load) for rate in known)
    nearest = max((rate for rate in known if _distance(rate, load) <= least + ALIKE), key=lambda rate: rate.time)
    sweeps = [rate for rate in known if not rate.is_calibration]
    recent = sorted(sweeps, key=lambda rate: rate.time)[-RECENT:]
    start, start_uncertainty = _overhead([rate.start_seconds for rate in recent], nearest.start_seconds + RAY_SECONDS)
    trial, trial_uncertainty = _overhead([rate.trial_seconds for rate in recent], TRIAL_SECONDS)
    per_token = load.tokens_per_step / nearest.tokens_per_step if nearest.tokens_per_step else 1.0
    rows = load.evaluation_rows / nearest.evaluation_rows if nearest.evaluation_rows else 1.0
    longer = load.row_tokens / nearest.row_tokens if nearest.row_tokens and load.row_tokens else 1.0
    far = FAR_RANGE * _distance(nearest, load)
    return Speed(
        step_seconds=nearest.step_seconds / nearest.slots * per_token,
        evaluation_seconds=nearest.evaluation_seconds * rows * longer,
        start_seconds=start,
        trial_seconds=trial,
        uncertainty=min(MOST_RANGE, max(LEAST_RANGE, nearest.spread / math.sqrt(max(1, nearest.steps))) + far),
        start_uncertainty=start_uncertainty,
        trial_uncertainty=trial_uncertainty,
        measured=nearest.steps,
    )


def _overhead(seen: Sequence[float], unseen: float) -> tuple[float, float]:
    """The median of what was seen, and the share by which it may be off; `unseen` where nothing was."""
    if not seen:
        return unseen, LEAST_RANGE + FAR_RANGE
    middle = median(seen)
    farthest = max(abs(value - middle) for value in seen)
    return middle, min(MOST_RANGE, max(LEAST_RANGE, farthest / middle if middle else 0.0))


def kept(rates: Sequence[Rate], new: Rate, most: int = 200) -> tuple[Rate, ...]:
    """The rates with a new one: it takes the place of those of its kind and load; the oldest go beyond `most`."""
    others = [rate for rate in rates if _place(rate) != _place(new)]
    return tuple(sorted([*others, new], key=lambda rate: rate.time)[-most:])


def _applies(measured: RateKey, asked: RateKey) -> bool:
    same = measured.model_copy(update={"device": ""}) == asked.model_copy(update={"device": ""})
    return same and is_named(measured.device, asked.device)


def is_named(device: str, asked: str) -> bool:
    """Whether `asked` is words of the device's name: an A10 is no A100, and "A100 80GB" is an A100-SXM4-80GB.

    2.20GHz is one word, so that a processor with 2 threads is none with 64. Hosts of 2 GPUs are no hosts of one.
    """
    if [_SEVERAL.findall(name) for name in (device, asked)].count([]) == 1:
        return False
    return set(_WORD.findall(asked.lower())) <= set(_WORD.findall(device.lower()))


def _distance(rate: Rate, load: Load) -> float:
    """Doublings between the tokens that a host has in flight with all its slots, measured and planned."""
    slots = rate.host_slots or rate.slots
    measured, planned = rate.tokens_per_step * slots, load.tokens_per_step * load.slots
    if not measured or not planned:
        return abs(math.log2(load.slots / slots))
    return abs(math.log2(planned / measured))


def _place(rate: Rate) -> tuple[RateKey, int, int, bool]:
    tokens = round(math.log2(rate.tokens_per_step) * 2) if rate.tokens_per_step else 0
    return rate.key, tokens, round(rate.host_slots or rate.slots), rate.is_calibration
