"""Decides which trial is better: names a metric, and tells whether its lower or its higher value is better."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from trainables.specs import Spec

Direction = Literal["min", "max"]
EVAL_LOSS = "eval_loss"
"""Total negative log-likelihood of the evaluation rows' completion tokens / number of those tokens."""
EVAL_BITS = "eval_bits_per_byte"
"""The same total in bits / UTF-8 bytes of the completions. Unlike `eval_loss`, comparable between tokenizers."""
PER_TOKEN = (EVAL_LOSS, "eval_row_loss")
"""Losses that count tokens, so that the same rows with other tokens have other losses."""
LOSSES = (*PER_TOKEN, EVAL_BITS)
"""Metrics whose value on a row has no upper bound, also where it is below 1 on each row."""

LEAST_ROWS = 10
"""With fewer evaluation rows there is no interval: the interval of one row would have no width. Promotion passes
nothing then."""
FEW_ROWS = 30
"""On fewer rows intervals hold if differences are about normal; a few large differences make them too narrow."""
COSTS = ("trainable_params",)
"""Costs of a trial that can be a second objective beside the metrics of evaluations; lower is better. Tokens and
seconds cannot: a trial that is stopped early has fewer."""


class RowValues(NamedTuple):
    """A metric per row. The metric is the sum of the parts / the sum of the weights.

    A loss has the row's tokens, or bytes, as weight. A score has weight 1.
    """

    parts: Sequence[float]
    weights: Sequence[float]


class SortKey(NamedTuple):
    """A sort key of evaluations: the lower the better, compared from the first field on.

    An evaluation without the objective's value, as at report points without scored answers, sorts behind all others.
    The loss decides between equal values, since scores of a few rows are often equal.
    """

    objective: float = math.inf
    """The objective's value, negative if higher is better; infinite if there is none."""
    loss: float = math.inf


class Objective(Spec):
    """The metric that decides which trial is better."""

    metric: str = EVAL_LOSS
    """A metric of the trainable (its METRICS), or one that evaluation.metrics adds. eval_loss is the total negative
    log-likelihood of the evaluation rows' completion tokens / number of those tokens."""
    mode: Direction = "min"
    """Whether a lower or a higher value is better."""

    def of(self, metrics: Mapping[str, float]) -> float:
        """Returns the metric's value. Raises ValueError if `metrics` lacks the metric."""
        if self.metric not in metrics:
            raise ValueError(f"the objective is {self.metric}, and the evaluation gives {', '.join(metrics)} only")
        return metrics[self.metric]

    def is_better(self, value: float, than: float) -> bool:
        """Tells whether `value` is better; a NaN never is."""
        return value < than if self.mode == "min" else value > than

    def loss(self, value: float) -> float:
        """Returns the value, negative if higher is better, so that lower is better; infinite if it is not finite."""
        if not math.isfinite(value):
            return math.inf
        return value if self.mode == "min" else -value

    def sort_key(self, metrics: Mapping[str, float] | None) -> SortKey:
        """Returns the sort key of an evaluation with these metrics; the worst key for None."""
        if metrics is None:
            return SortKey()
        loss = metrics.get(EVAL_LOSS, math.inf)
        return SortKey(self.loss(metrics.get(self.metric, math.nan)), loss if math.isfinite(loss) else math.inf)

    def judging(self, metrics: Mapping[str, float]) -> Objective:
        """Returns the objective that judges these metrics: this one, or the loss if this one has no value."""
        return self if math.isfinite(metrics.get(self.metric, math.nan)) else LOWEST_LOSS

    def gain(self, before: float, after: float) -> float:
        """Returns how much better `after` is; negative if it is worse."""
        return before - after if self.mode == "min" else after - before

    def words(self, gain: float) -> str:
        """Returns the gain in words, such as "0.7500 lower"."""
        is_lower = (gain >= 0) == (self.mode == "min")
        return f"{digits(abs(gain))} {'lower' if is_lower else 'higher'}"


def digits(value: float, sign: str = "") -> str:
    """Writes a number with four decimals; a size below 1e-3 with two significant digits, and below 1e-9 as 0.

    Args:
        sign: "+" to show the sign of positive numbers too.
    """
    size = abs(value)
    if not 1e-9 <= size < 1e-3:
        return f"{value if size >= 1e-9 or value != value else 0.0:{sign}.4f}"
    return f"{value:{sign}.{1 - math.floor(math.log10(size))}f}"


LOWEST_LOSS = Objective()
MEANINGS: Mapping[str, str] = {
    EVAL_LOSS: "mean negative log-likelihood per completion token of the evaluation rows, in nats",
    EVAL_BITS: "negative log-likelihood of the evaluation rows' completions, in bits per byte of their text",
    "trainable_params": "weights that a trial trains",
}
"""Name of a metric or cost -> its meaning in words."""


def _has_loss(metrics: dict[str, float]) -> dict[str, float]:
    if EVAL_LOSS not in metrics:
        raise ValueError(f"must have {EVAL_LOSS}")
    return metrics


Metrics = Annotated[dict[str, float], AfterValidator(_has_loss)]
"""Name -> value. `eval_loss` is always there."""


_TAKEN = {
    *("step", "steps", "tokens", "seconds", "train_loss", "learning_rate", "grad_norm"),
    *("trainable_params", "peak_memory_bytes", "best_step"),
    *("metrics", "row_losses", "row_tokens", "row_bytes", "row_groups", "row_values", "row_places", "unscored"),
    *("answers", "hardware", "places", "raw", "by_rows", "eval_rows"),
}
"""Names that a sweep logs for a trial beside its metrics, and the other keys of a saved evaluation. A metric `step`
would be logged as best_step too, which is taken."""
_LONGEST = 245
"""The most characters of a metric's name: MLflow takes 250, and a metric is logged as best_NAME too."""


def wrong_names(names: Collection[object]) -> str | None:
    """Returns the problem of the metrics' names, or None.

    With a name that MLflow refuses, a trial could log nothing. With a taken name, two numbers would be logged as one.
    """
    taken = _TAKEN.union(*((f"best_{name}", f"base_{name}", f"part_{name}") for name in names))
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w .:-]*(/\w[\w .:-]*)*", name) or len(name) > _LONGEST:
            return (
                f"has {name!r}: a name begins with a letter, digit or _, holds letters, digits, blanks and _ - . : / "
                f"only, and has at most {_LONGEST} characters"
            )
        if name in taken:
            return f"has {name!r}: a sweep writes something else under this name: choose another"
    return None


def _has_names(metrics: dict[str, float]) -> dict[str, float]:
    problem = wrong_names(metrics)
    if problem is not None:
        raise ValueError(problem)
    return metrics


EvaluationMetrics = Annotated[Metrics, AfterValidator(_has_names)]
"""Metrics of a trainable's evaluation. All names can be logged, including names that the trainable does not declare."""
