"""The evaluations, row by row, that a sweep keeps of its trials and the base, and what they tell of the best."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sweeps.record.events import SweepRecord, TrialRecord
from sweeps.record.folder import SweepFolder
from sweeps.record.selection import rank
from sweeps.record.separation import MOST, Separation, separate
from trainables.contract import Evaluation
from trainables.scoring.requests import BASE


def separation(folder: SweepFolder, record: SweepRecord) -> Separation | None:
    """The best trial against the next ones, trial 0 and the base; None when there is no best, or nothing beside it."""
    ranked = rank(record.trials.values())
    if not ranked or (len(ranked) == 1 and record.base is None):
        return None
    best, *rest = ranked
    compared = [trial for place, trial in enumerate(rest) if place < MOST or trial.number == 0]
    found = {trial.trial_key: _of_trial(folder, trial) for trial in compared}
    base = None
    if record.base is not None:
        base = BASE, record.base.eval_loss - best.best_eval_loss
        found[BASE] = _read(folder.base_rows, record.base.eval_loss, "the base")
    gaps = [(trial.trial_key, trial.best_eval_loss - best.best_eval_loss) for trial in compared]
    return separate(_of_trial(folder, best), gaps, base, found, len(ranked))


def _of_trial(folder: SweepFolder, trial: TrialRecord) -> Evaluation | str:
    name = f"t{trial.number:02d}"
    if trial.adapter is None:
        return f"the row losses of {name} were not kept"
    return _read(folder.path / trial.adapter / "eval_rows.json", trial.best_eval_loss, name)


def _read(path: Path, loss: float, name: str) -> Evaluation | str:
    """The evaluation in a file, or why it is not that of `loss`."""
    try:
        raw = json.loads(path.read_bytes())
        found = Evaluation.model_validate({key: raw[key] for key in Evaluation.model_fields if key in raw})
        told = sum(found.row_losses) / sum(found.row_tokens)
    except FileNotFoundError:
        return f"the row losses of {name} are missing"
    except (OSError, ValueError, TypeError, ZeroDivisionError, RecursionError):
        return f"the row losses of {name} cannot be read"
    if len(found.row_losses) != len(found.row_tokens) or not math.isclose(told, loss, rel_tol=1e-9):
        return f"the row losses of {name} are not those of its loss"
    return found
