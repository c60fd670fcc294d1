"""Which trials of a sweep may be promoted. Pure."""

from __future__ import annotations

import math

from sweeps.config.messages import did_you_mean
from sweeps.config.model import Promotion
from sweeps.errors import SweepError
from sweeps.tracking.lookup import FoundSweep, TrialRun


def choose(sweep: FoundSweep, policy: Promotion, trial: str | None, force: bool) -> list[TrialRun]:
    """The candidates, best first: the `policy.top` best ranked trials, or the one that was named.

    Args:
        sweep: the sweep and its trials.
        policy: says metric and number.
        trial: a trial's key, or its number as tables show it (t03).
        force: a trial that was named may be one that is not ranked.

    Raises:
        SweepError: no trial, or not the one that was named, may be promoted.
    """
    if trial is not None:
        return [_named(sweep, policy.metric, trial, force)]
    metric = policy.metric
    if sweep.trials and (metric == "step" or all(math.isnan(each.best(metric)) for each in sweep.trials)):
        named = {key.removeprefix("best_") for each in sweep.trials for key in each.metrics if key.startswith("best_")}
        known = sorted(named - {"step"})
        if known and metric not in known:
            hint = did_you_mean(metric, known)
            raise SweepError(f"--metric: no trial has best_{metric}{hint} (there are: {', '.join(known)})")
    ranked = [each for each in sweep.trials if each.is_ranked(metric) and each.refused is None]
    if not ranked:
        states = ", ".join(f"{each.label} {each.state}" for each in sweep.trials) or "it has none"
        raise SweepError(
            f"{sweep.sweep_id}: no trial may be promoted: one must be COMPLETED or STOPPED, with a finite "
            f"best_{metric} and its adapter in MLflow ({states})"
        )
    return sorted(ranked, key=lambda each: (each.best(metric), each.number))[: policy.top]


def _named(sweep: FoundSweep, metric: str, trial: str, force: bool) -> TrialRun:
    found = next((each for each in sweep.trials if trial in (each.trial_key, each.label)), None)
    if found is None:
        there = ", ".join(f"{each.label} {each.trial_key}" for each in sweep.trials)
        raise SweepError(f"--trial: no trial {trial!r} in {sweep.sweep_id} (there are: {there})")
    if found.refused is not None:
        raise SweepError(f"--trial: the adapter of {found.label} is not in MLflow: {found.refused}")
    if not found.is_ranked(metric) and not force:
        raise SweepError(
            f"--trial: {found.label} is {found.state}, its best_{metric} {found.best(metric):.4f}: only a COMPLETED or "
            "STOPPED trial with a finite value is promoted; --force does it, and the version says so"
        )
    return found
