"""Makes evaluations from the losses of the evaluation rows, and keeps the evaluation of the base on this machine.

Later sweeps on the same base and rows read the base's evaluation instead of computing it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from trainables import evaluation_metrics
from trainables.cache_files import write_whole
from trainables.contract import Evaluation, Failure
from trainables.data.dataset import Split, TokenRow
from trainables.evaluation_metrics import Metric
from trainables.inputs import json_text
from trainables.objective import EVAL_LOSS

_SAME = 1e-5
"""Losses of one token that differ by less, relative to the largest loss, count as equal: fp32 sums of logits differ by
some 1e-6. In a tiny random model, whose losses are all near that of a uniform distribution, they differ by more than
1e-3."""
_LEAST_REPEATS = 3
"""The fewest equal losses that are no coincidence."""


def judge(
    losses: Sequence[torch.Tensor], split: Split, metrics: Mapping[str, Metric], hardware: str
) -> Evaluation | Failure:
    """Returns the evaluation of a slot, or a failure if the slot has diverged.

    Args:
        losses: for each row of `split`, the negative log-probabilities of its labelled tokens, on the CPU.
        hardware: see `Evaluation.hardware`.
    """
    totals, tokens = tuple(float(of_row.double().sum()) for of_row in losses), tuple(map(len, losses))
    found = evaluation_metrics.evaluate(totals, tokens, metrics)
    wrong = [f"{name} {value}" for name, value in found.items() if not math.isfinite(value)]
    if not wrong and _is_flat(losses, [split.row(i) for i in range(len(split))]):
        wrong = [f"{EVAL_LOSS} {found[EVAL_LOSS]:.4f}: the output no longer depends on the input"]
    if wrong:
        return Failure(kind="diverged", message=", ".join(wrong))
    return evaluation_metrics.evaluation(totals, tokens, split.groups, hardware, metrics, split.sizes)


def brought(
    found: Evaluation, base: Evaluation, places: Collection[int], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Returns the metrics of `found` on these rows, brought to all rows by the evaluation of the base on all rows.

    The base is the control variate: the value on these rows + the base's on all - the base's on these rows.
    """
    mine, its = (_of_losses(each.on(places), metrics).metrics for each in (found, base))
    whole = _of_losses(base, metrics).metrics
    return {name: value + whole[name] - its[name] for name, value in mine.items() if name in whole and name in its}


def _of_losses(found: Evaluation, metrics: Mapping[str, Metric]) -> Evaluation:
    """Returns the evaluation with the metrics and values that follow from its losses alone."""
    rows = found.row_losses, found.row_tokens, found.row_groups
    return evaluation_metrics.evaluation(*rows, found.hardware, metrics, found.row_bytes)


def _is_flat(losses: Sequence[torch.Tensor], rows: Sequence[TokenRow]) -> bool:
    """Tells whether the logits are the same at every position, so that each token has the same loss in every place.

    Losses near 0 do not count, since a model that is sure has them anywhere. Equal rows count once.
    """
    once = {row.ids.tobytes(): place for place, row in enumerate(rows)}.values()
    answers = np.concatenate([rows[place].ids[rows[place].labelled] for place in once])
    found = torch.cat([losses[place] for place in once]).numpy()
    same = _SAME * max(1.0, float(found.max()))
    if np.ptp(found) <= same:  # as from a uniform distribution, where all tokens have the same loss
        answers = np.zeros_like(answers)
    low, high, counts = np.full(answers.max() + 1, np.inf), np.full(answers.max() + 1, -np.inf), np.bincount(answers)
    np.minimum.at(low, answers, found)
    np.maximum.at(high, answers, found)
    sure = (counts > 0) & (low > 100 * same)
    repeats = int((counts[sure] - 1).sum())
    return repeats >= _LEAST_REPEATS and bool(np.all(high - low <= same, where=counts > 0))


def base_file(cache: Path, *identity: str) -> Path:
    """Returns the file in `cache` for an `identity`: the base, quantisation, types, kind of GPU and rows."""
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return cache / "base-evaluations" / f"{digest[:16]}.json"


def read_or_make(
    path: Path | None, evaluate: Callable[[], Evaluation | Failure], split: Split, metrics: Mapping[str, Metric]
) -> Evaluation | Failure:
    """Returns the evaluation in `path`. If none can be read, calls `evaluate` and writes the result there.

    Without a path it always calls `evaluate`. If `path` cannot be written, only the next sweep evaluates again.
    """
    if path is None:
        return evaluate()
    known = _read(path, split, metrics)
    if known is not None:
        return known
    made = evaluate()
    if isinstance(made, Evaluation):
        with suppress(OSError):
            write_whole(path, json.dumps(made.document()).encode())
    return made


def _read(path: Path, split: Split, metrics: Mapping[str, Metric]) -> Evaluation | None:
    with suppress(OSError, ValueError, TypeError, ZeroDivisionError):
        read = Evaluation.of_document(json_text.parse(path.read_bytes()))
        # The file may be older than some metrics, so all metrics are computed again from the losses of the rows.
        found = evaluation_metrics.evaluation(
            read.row_losses, read.row_tokens, read.row_groups, read.hardware, metrics, split.sizes
        )
        return found if math.isclose(read.loss, found.loss) else None
    return None
