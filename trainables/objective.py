"""What decides which trial is better: a metric by its name, and whether a lower or a higher value of it is better."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from trainables.specs import Spec

Direction = Literal["min", "max"]
EVAL_LOSS = "eval_loss"
"""Total negative log-likelihood of the evaluation rows' completion tokens / number of those tokens."""
EVAL_BITS = "eval_bits_per_byte"
"""The same total in bits / bytes of the completions in UTF-8: comparable between tokenizers, as `eval_loss` is not."""

COSTS = ("trainable_params",)
"""What a report says of the trial itself, beside the metrics of its evaluation: a second objective, the lower the
better. Tokens and seconds are no such thing: a trial that is stopped early has fewer."""


class RowValues(NamedTuple):
    """A metric's value per row: the metric is the sum of the parts over the sum of the weights.

    The loss of a row is one form, weighted by its tokens; a score of a row, each of weight 1, is the other.
    """

    parts: Sequence[float]
    weights: Sequence[float]


class Standing(NamedTuple):
    """How good an evaluation is: the lower the better, compared from the first field on.

    An evaluation without the objective's value, as at report points where answers are not scored, stands behind all
    that have one. Among equals the loss decides: scores of a few rows are often equal.
    """

    objective: float = math.inf
    """The objective's value, or its negative where higher is better; infinite where there is none."""
    loss: float = math.inf
    """`eval_loss`."""


class Objective(Spec):
    """What decides which trial is better."""

    metric: str = EVAL_LOSS
    """A metric that the trainable offers (its METRICS). eval_loss is the total negative log-likelihood of the
    evaluation rows' completion tokens / number of those tokens."""
    mode: Direction = "min"
    """Whether a lower or a higher value is better."""

    def of(self, metrics: Mapping[str, float]) -> float:
        """The metric's value. Raises ValueError when it is not there."""
        if self.metric not in metrics:
            raise ValueError(f"the objective is {self.metric}, and the evaluation gives {', '.join(metrics)} only")
        return metrics[self.metric]

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is the better one; a NaN never is."""
        return value < than if self.mode == "min" else value > than

    def loss(self, value: float) -> float:
        """The value, or its negative where higher is better: the lower the better. Infinite when it is not finite."""
        if not math.isfinite(value):
            return math.inf
        return value if self.mode == "min" else -value

    def standing(self, metrics: Mapping[str, float] | None) -> Standing:
        """How good an evaluation with these metrics is; the worst of all for None."""
        if metrics is None:
            return Standing()
        loss = metrics.get(EVAL_LOSS, math.inf)
        return Standing(self.loss(metrics.get(self.metric, math.nan)), loss if math.isfinite(loss) else math.inf)

    def judging(self, metrics: Mapping[str, float]) -> Objective:
        """What an evaluation with these metrics is judged by: this, or the loss where there is no value of this."""
        return self if math.isfinite(metrics.get(self.metric, math.nan)) else LOWEST_LOSS

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is; negative where it is worse."""
        return before - after if self.mode == "min" else after - before

    def words(self, gain: float) -> str:
        """The gain in words: "0.7500 lower"."""
        is_lower = (gain >= 0) == (self.mode == "min")
        return f"{digits(abs(gain))} {'lower' if is_lower else 'higher'}"


def digits(value: float, sign: str = "") -> str:
    """A number with four decimals, or as many as show two digits of it; what is below 1e-9 is rounding, and 0.

    Args:
        sign: "+" to show that of positive numbers, too.
    """
    size = abs(value)
    if not 1e-9 <= size < 1e-3:
        return f"{value if size >= 1e-9 or value != value else 0.0:{sign}.4f}"
    return f"{value:{sign}.{1 - math.floor(math.log10(size))}f}"


LOWEST_LOSS = Objective()
"""What a sweep seeks where its file names nothing else."""
MEANINGS: Mapping[str, str] = {
    EVAL_LOSS: "mean negative log-likelihood per completion token of the evaluation rows, in nats",
    EVAL_BITS: "negative log-likelihood of the evaluation rows' completions, in bits per byte of their text",
    "trainable_params": "weights that a trial trains",
}
"""What values are, in words, where this is known."""


def _has_loss(metrics: dict[str, float]) -> dict[str, float]:
    if EVAL_LOSS not in metrics:
        raise ValueError(f"must have {EVAL_LOSS}")
    return metrics


Metrics = Annotated[dict[str, float], AfterValidator(_has_loss)]
"""Name -> value. `eval_loss` is always there."""


_TAKEN = {
    *("step", "steps", "tokens", "seconds", "train_loss", "learning_rate", "grad_norm"),
    *("trainable_params", "peak_memory_bytes", "best_step"),
    *("metrics", "row_losses", "row_tokens", "row_bytes", "row_groups", "row_values", "row_places"),
    *("answers", "hardware"),
}
"""What a sweep logs of a trial beside its evaluations, and the other keys of a saved one; `step` would be best_step."""
_LONGEST = 245
"""MLflow takes 250 characters, and a metric is logged as best_NAME too."""


def wrong_names(names: Collection[object]) -> str | None:
    """What is wrong with the names of metrics; None where nothing is.

    A name that MLflow does not take costs all that a trial reports, and one that is taken makes two numbers one.
    """
    taken = _TAKEN.union(*((f"best_{name}", f"base_{name}") for name in names))
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
"""The same as a trainable gives them: their names can be logged, also those that it does not declare."""


_OF_EARLIER_VERSIONS = {EVAL_LOSS: "metrics", f"best_{EVAL_LOSS}": "best_metrics"}
"""What earlier versions wrote as a bare loss -> the field that is a mapping of metrics now."""


def named_metrics(raw: Any) -> Any:
    """What earlier versions wrote, with each bare loss in a mapping of metrics; `raw` is what is validated."""
    if not isinstance(raw, Mapping) or not _OF_EARLIER_VERSIONS.keys() & raw.keys():
        return raw
    kept = {key: value for key, value in raw.items() if key not in _OF_EARLIER_VERSIONS}
    told = {new: {EVAL_LOSS: raw[old]} for old, new in _OF_EARLIER_VERSIONS.items() if raw.get(old) is not None}
    return kept | told
