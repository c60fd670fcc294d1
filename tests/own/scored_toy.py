"""The toy with answers that are scored, as a trainable of one's own: `trainable: own.scored_toy`.

There are ten rows, and a trial answers so many of them right as `right_answers` says: most at a learning rate near
1e-3, so that the lowest loss is not the highest score. Where a file `breaks_at` lies beside this one, answers of which
so many are right cannot be scored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from trainables import toy
from trainables.contract import AnsweredRow, Evaluation, Failure, Prepared
from trainables.objective import Direction
from trainables.specs import TrialSpec
from trainables.toy import METRICS, REQUIRES, fingerprint, need, resolve_targets

__all__ = ["METRICS", "REQUIRES", "fingerprint", "need", "resolve_targets"]
SCORES = ("exact_match", "choice")
"""The graders that it knows, without options."""
ROWS = 10


def check(base: TrialSpec) -> list[str]:
    """There are no files, and no answers but those of `SCORES`."""
    unknown = [entry for entry in base.evaluation.metrics if entry not in SCORES]
    return [f"evaluation.metrics: {entry}: scored here are {' and '.join(SCORES)} only" for entry in unknown]


def metrics(base: TrialSpec) -> Mapping[str, Direction]:
    """METRICS, and those of `SCORES` that the specification names."""
    return {**METRICS, **{name: "max" for name in SCORES if name in base.evaluation.metrics}}


def prepare(base: TrialSpec, cache: Path) -> Prepared:
    """There is no data."""
    prepared = toy.prepare(base, cache)
    return prepared.model_copy(update={"summary": prepared.summary.model_copy(update={"eval_rows": ROWS})})


def open_pack(base: TrialSpec, data: bytes, cache: Path) -> ScoredPack:
    """A pack of curves with scores."""
    return ScoredPack(base)


def right_answers(spec: TrialSpec, step: int) -> int:
    """How many of the rows the trial answers right after `step` steps: 1 at first, as the base does."""
    decades = math.log10(spec.training.learning_rate / 1e-3)
    return 1 + round(8 * max(0.0, 1 - decades**2) * step / spec.steps)


class ScoredPack(toy.ToyPack):
    """A `ToyPack` that scores answers."""

    def __init__(self, base: TrialSpec | None = None) -> None:
        super().__init__()
        self._base = base or TrialSpec(trainable="own.scored_toy")

    def evaluate(self, slots: Sequence[int], scored: Collection[int] = ()) -> Mapping[int, Evaluation | Failure]:
        """See `Pack.evaluate`."""
        found = super().evaluate(slots)
        right = {slot: right_answers(own.spec, own.step) for slot, own in self._slots.items() if slot in scored}
        return {slot: _scored(each, self._slots[slot].spec, right.get(slot)) for slot, each in found.items()}

    def evaluate_base(self) -> Evaluation | Failure:
        """See `Pack.evaluate_base`: where every curve starts."""
        return _scored(super().evaluate_base(), self._base, 1)


def _scored(found: Evaluation | Failure, spec: TrialSpec, right: int | None) -> Evaluation | Failure:
    """The evaluation with as many rows as there are, of which `right` are answered right; None: no answer is scored."""
    if isinstance(found, Failure):
        return found
    losses = tuple(found.loss * (1 + (row - (ROWS - 1) / 2) / ROWS) for row in range(ROWS))
    rows = {"row_losses": losses, "row_tokens": (1,) * ROWS}
    if right is None:
        return found.model_copy(update=rows)
    names = [name for name in SCORES if name in spec.evaluation.metrics]
    limit = Path(__file__).with_name("breaks_at")
    if limit.exists() and right >= int(limit.read_text()):
        return found.model_copy(update={**rows, "unscored": dict.fromkeys(names, "row 0: ValueError: no number")})
    places = range(spec.evaluation.examples or ROWS)
    values = tuple(float(row < right) for row in places)
    answers = {
        "metrics": found.metrics | dict.fromkeys(names, sum(values) / len(values)),
        "row_values": dict.fromkeys(names, values),
        "row_places": tuple(places) if len(places) < ROWS else (),
        "answers": tuple(
            AnsweredRow(
                row=row, prompt=f"{row} + {row} =", expected=str(2 * row), answer=str(2 * row) if value else "?",
                is_ended=True, scores=dict.fromkeys(names, value),
            )
            for row, value in zip(places, values, strict=True)
        ),
    }  # fmt: skip
    return found.model_copy(update=rows | answers)
