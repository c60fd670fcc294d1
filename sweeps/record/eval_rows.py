"""Reads the losses of each evaluation row that a sweep keeps, and compares the best trial with others by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweeps.record import seeds
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.record.selection import rank
from sweeps.record.separation import MOST, Other, Separation, separate
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.contract import Evaluation
from trainables.inputs import json_text
from trainables.objective import EVAL_LOSS
from trainables.scoring.requests import BASE


def separation(folder: SweepFolder, record: SweepRecord) -> Separation | None:
    """The best trial against the next ones, trial 0 and the base; None when there is no best, or nothing beside it.

    Only losses are kept for each row, so there is no comparison by another metric than eval_loss.
    """
    ranked = rank(record.trials.values(), record.objective)
    if not ranked or (len(ranked) == 1 and record.base is None) or record.objective.metric != EVAL_LOSS:
        return None
    best, *rest = ranked
    compared = [trial for place, trial in enumerate(rest) if place < MOST or trial.number == 0]
    noise = seeds.noise(record.trials.values(), EVAL_LOSS)
    others, base = _others(folder, best, compared), _base(folder, record, best)
    return separate(_of_trial(folder, best), others, base, len(ranked), noise)


def against(
    folder: SweepFolder, record: SweepRecord, first: TrialRecord, others: Sequence[TrialRecord]
) -> Separation | None:
    """A trial that somebody chose against others, each at its best step; None for another metric than eval_loss.

    The confidence is that of `separation`: the trials were chosen on the rows that compare them, and what the closing
    table of a sweep does not tell apart must not differ here. Others without a value are left out.
    """
    if record.objective.metric != EVAL_LOSS:
        return None
    told = [trial for trial in others if math.isfinite(trial.value(EVAL_LOSS))]
    if not math.isfinite(first.value(EVAL_LOSS)):
        told = []
    # Those that have not ended are chosen from as well: a pair has the same interval whoever is named beside it.
    open_ones = [t for t in record.trials.values() if not t.state.is_final and math.isfinite(t.value(EVAL_LOSS))]
    in_all = len(rank(record.trials.values(), record.objective)) + len(open_ones)
    noise = seeds.noise(record.trials.values(), EVAL_LOSS)
    pairs, chosen_from = _others(folder, first, told), max(in_all, len(told) + 1)
    # As in the closing table, the base counts, and tells rows apart on which good adapters have equal losses.
    compared = separate(_of_trial(folder, first), pairs, _base(folder, record, first), chosen_from, noise)
    return replace(compared, base=None, not_compared=0)


def _base(folder: SweepFolder, record: SweepRecord, best: TrialRecord) -> Other | None:
    if record.base is None:
        return None
    loss = record.base.metrics[EVAL_LOSS]
    return Other(BASE, loss - best.value(EVAL_LOSS), _read(folder.base_rows, loss, "the base"))


def _others(folder: SweepFolder, best: TrialRecord, trials: Sequence[TrialRecord]) -> list[Other]:
    loss = best.value(EVAL_LOSS)
    return [Other(trial.trial_key, trial.value(EVAL_LOSS) - loss, _of_trial(folder, trial)) for trial in trials]


def _of_trial(folder: SweepFolder, trial: TrialRecord) -> Evaluation | str:
    name = label(trial.number)
    if trial.adapter is None:
        return f"the row losses of {name} were not kept"
    return _read(folder.path / trial.adapter / "eval_rows.json", trial.value(EVAL_LOSS), name)


def _read(path: Path, loss: float, name: str) -> Evaluation | str:
    """The evaluation in a file, or the reason why it cannot be used. It must come to `loss`."""
    try:
        evaluation = Evaluation.of_document(json_text.parse(path.read_bytes()))
        told = sum(evaluation.row_losses) / sum(evaluation.row_tokens)
    except FileNotFoundError:
        return f"the row losses of {name} are missing"
    except (OSError, ValueError, TypeError, ZeroDivisionError):
        return f"the row losses of {name} cannot be read"
    if len(evaluation.row_losses) != len(evaluation.row_tokens) or not math.isclose(told, loss, rel_tol=1e-9):
        return f"the row losses of {name} are not those of its loss"
    return evaluation
