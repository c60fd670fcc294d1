"""Which trial is the best, and why. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.record.events import TrialRecord


@dataclass(frozen=True)
class Decision:
    """The winner, or the reason why there is none."""

    winner: TrialRecord | None
    why: str


def choose(trials: Iterable[TrialRecord]) -> Decision:
    """The trial with the lowest best eval_loss among those that completed or were stopped by the scheduler.

    Every trial is ranked by the best value that it reported on the sweep's fixed evaluation rows, not by its last
    one. Equal values go to the trial with the lower number, so the answer does not depend on the order of arrival.
    """
    trials = tuple(trials)
    ranked = rank(trials)
    if not ranked:
        return Decision(None, "no trial completed with a finite eval_loss" if trials else "no trial began")
    best = ranked[0]
    why = f"lowest eval_loss of {len(ranked)} ranked trials, at step {best.best_step}"
    return Decision(best, why)


def rank(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that may win, best first."""
    fit = [trial for trial in trials if trial.state.is_ranked and math.isfinite(trial.best_eval_loss)]
    return sorted(fit, key=lambda trial: (trial.best_eval_loss, trial.number))
