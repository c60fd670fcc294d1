"""Ranks the trials that may be promoted; fetches their adapters from MLflow and verifies them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.config import bases
from sweeps.errors import ConfigError, NotStored, SweepError
from sweeps.promotion.request import Context
from sweeps.record import digests
from sweeps.record.events import TrialState
from sweeps.statistics.comparison import Pair, compare
from sweeps.statistics.confidence import confidence_of
from sweeps.tracking.lookup import ReportedRows, TrackedSweep, TrialRun
from trainables.contract import Evaluation
from trainables.inputs.similar import did_you_mean
from trainables.objective import COSTS, EVAL_LOSS, Objective, SortKey
from trainables.scoring import requests
from trainables.specs import QuantizationSpec, TrialSpec


@dataclass(frozen=True)
class Candidate:
    """A trial with its fetched and verified adapter."""

    trial: TrialRun
    adapter: Mapping[str, bytes]
    """File of the PEFT folder -> content."""
    adapter_sha256: str
    reported: Evaluation
    """The evaluation that the trial reported at its best step."""
    identity: str
    """Identifies the candidate's version: 16 hex digits over the sweep, the trial and the adapter's files."""

    @property
    def label(self) -> str:
        """Returns the trial's name in tables."""
        return self.trial.label


def ranked(sweep: TrackedSweep, objective: Objective, trial: str | None, force: bool) -> list[TrialRun]:
    """Returns the trials that may be promoted, best first, or only the one that `trial` names. Pure.

    A repeat is chosen only by name: the luckiest of several seeds would pass for a better point.

    Args:
        trial: a trial's key, or its number as tables show it (t03).
        force: whether the named trial may be an unranked one.

    Raises:
        SweepError: no trial may be promoted, or the named one may not.
    """
    if trial is not None:
        return [_named(sweep, objective.metric, trial, force)]
    metric = objective.metric
    # A metric that is named best_x is logged as best_best_x too.
    known = sorted({key for each in sweep.trials for key in each.metrics if f"best_{key}" in each.metrics})
    if known and metric not in (*known, *COSTS):
        hint = did_you_mean(metric, known)
        raise SweepError(f"--metric: no trial has {metric}{hint} (there are: {', '.join(known)})")
    own = [each for each in sweep.trials if each.repeats is None]
    found = [each for each in own if each.is_ranked(metric) and each.refused is None]
    if not found:
        states = ", ".join(f"{each.label} {each.state}" for each in own) or "it has none"
        raise SweepError(
            f"{sweep.sweep_id}: no trial may be promoted: one must be COMPLETED or STOPPED, with a finite "
            f"best_{metric} and its adapter in MLflow ({states})"
        )
    return sorted(found, key=lambda each: (_sort_key(each, objective), each.number))


def on_one_base(context: Context, trials: Sequence[TrialRun]) -> tuple[Context, tuple[Candidate, ...]]:
    """Returns the promotion as one from a sweep on the base of the best trial, and the candidates on this base.

    If MLflow has the adapter of no trial on this base, the next best base is taken. Raises as `fetch` does.
    """
    if not bases.are_searched(context.sweep.config):
        return context, fetch(context, trials)
    config, sweep = context.sweep.config, context.sweep
    known = {name: trials[0].params[name] for name in ("quantization", "compute_dtype", "double_quant")}
    own = [each for each in trials if {name: each.params.get(name) for name in known} == known]
    change = {
        "scheme": known["quantization"],
        "compute_dtype": known["compute_dtype"],
        "double_quant": known["double_quant"] == "True",
    }
    quantization = QuantizationSpec.model_validate(config.quantization.model_dump() | change)
    context.say(f"base: {', '.join(known.values())} (quantization, compute_dtype, double_quant), as {trials[0].label}")
    changed = replace(sweep, config=config.model_copy(update={"quantization": quantization}))
    on_base, rest = replace(context, sweep=changed), [each for each in trials if each not in own]
    try:
        return on_base, fetch(on_base, own)
    except NotStored as error:
        if not rest:
            raise
        context.say(f"warning: {', '.join(known.values())}: {error}: the next base is taken")
        return on_one_base(context, rest)


def _sort_key(trial: TrialRun, objective: Objective) -> SortKey:
    """Ranks a trial as the sweep does: between equal values the loss decides."""
    return objective.sort_key({name: trial.best(name) for name in (EVAL_LOSS, objective.metric)})


def _named(sweep: TrackedSweep, metric: str, trial: str, force: bool) -> TrialRun:
    run = next((each for each in sweep.trials if trial in (each.trial_key, each.label)), None)
    if run is None:
        known = ", ".join(f"{each.label} {each.trial_key}" for each in sweep.trials) or "none"
        raise SweepError(f"--trial: no trial {trial!r} in {sweep.sweep_id} (there are: {known})")
    if run.refused is not None:
        raise SweepError(f"--trial: the adapter of {run.label} is not in MLflow: {run.refused}")
    if not run.is_ranked(metric) and not force:
        raise SweepError(
            f"--trial: {run.label} is {run.state}, its best_{metric} {run.best(metric):.4f}: only a COMPLETED or "
            "STOPPED trial with a finite value is promoted; --force does it, and the version says so"
        )
    return run


def ranked_together(sweep: TrackedSweep, trial: str | None) -> int:
    """Counts the trials that the sweep ranked on its evaluation rows, with the one that `trial` names. Pure.

    Trials without a score count too: the loss chose those that have one. Repeats count if one is named. A champion of
    the same sweep looks better than it is on these rows, and so is harder to beat, not easier.
    """
    named = [each for each in sweep.trials if trial in (each.trial_key, each.label)]
    with_repeats = any(each.repeats for each in named)
    may_win = {state.value for state in TrialState if state.is_ranked or not state.is_final}
    own = [
        each for each in sweep.trials
        if each.state in may_win and math.isfinite(each.best(EVAL_LOSS)) and (with_repeats or each.repeats is None)
    ]  # fmt: skip
    return len({each.trial_key for each in (*own, *named)})


def fetch(context: Context, trials: Sequence[TrialRun]) -> tuple[Candidate, ...]:
    """Fetches the adapters and reported losses of the best trials from MLflow, and checks that the trials wrote them.

    Leaves out a trial whose files are not in MLflow, and takes the next one; a named trial must have its files. Returns
    at most `promotion.top` candidates, best first.

    Raises:
        SweepError: a file is not the one that the trial wrote, or no trial has its files in MLflow.
        ConfigError: an adapter may hold code, or is not plain LoRA on the sweep's base.
    """
    metric, top = context.objective.metric, context.policy.top
    for trial in trials:
        if not trial.is_ranked(metric):
            context.force(f"{trial.label} is {trial.state}")
    context.say(
        f"candidates by best {metric}: " + ", ".join(f"{each.label} {each.best(metric):.4f}" for each in trials[:top])
    )
    candidates: list[Candidate] = []
    for trial in trials:
        if len(candidates) == top:
            break
        try:
            candidates.append(_fetched(context, trial))
        except NotStored as error:
            if context.request.trial is not None:
                raise SweepError(f"--trial: {trial.label}: {error}") from None
            context.say(f"warning: {trial.label} is left out: {error}")
    if not candidates:
        raise NotStored(f"{context.sweep.sweep_id}: no trial may be promoted: MLflow has the adapter of none of them")
    context.say(f"adapters: fetched and verified ({', '.join(each.label for each in candidates)})")
    return tuple(candidates)


def not_worse(context: Context, fetched: Sequence[Candidate]) -> tuple[Context, tuple[Candidate, ...]]:
    """Leaves out candidates that are worse than the first one by what they reported, beyond chance.

    Such a candidate would cost as many evaluations as the winner. Without `--eval-data` the rows that decide are like
    the sweep's own. The gate still counts the candidate.
    """
    objective, best = context.objective, fetched[0]
    if context.request.eval_data is not None:
        return context, tuple(fetched)
    confidence = confidence_of(ranked_together(context.sweep, context.request.trial))

    def is_worse(other: Candidate) -> bool:
        told = [best.reported, other.reported]
        if any(each.rows_of(objective.metric) is None for each in told) or len({each.places for each in told}) > 1:
            return False
        gain = objective.gain(other.trial.best(objective.metric), best.trial.best(objective.metric))
        pair = Pair(other.label, gain, other.reported, best.reported)
        (found,) = compare(objective, [pair], confidence).pairs
        return found.above(0.0) is True

    worse = [each for each in fetched[1:] if is_worse(each)]
    if worse:
        names, verb = ", ".join(each.label for each in worse), "is" if len(worse) == 1 else "are"
        context.say(f"left out: {names} {verb} worse than {best.label} on the sweep's own rows, beyond chance")
    return replace(context, left_out=len(worse)), tuple(each for each in fetched if each not in worse)


def _fetched(context: Context, trial: TrialRun) -> Candidate:
    files = context.lookup.files(trial.run_id, "adapter")
    digest = digests.of_files(files)
    if trial.adapter_sha256 not in (None, digest):
        raise SweepError(
            f"{trial.label}: its adapter in MLflow (run {trial.run_id}) is not the one that the trial wrote: "
            "sha256 differs; choose another with --trial"
        )
    reported = context.lookup.reported(trial.run_id)
    for objection in _objections(trial, reported):
        context.force(f"{trial.label}: {objection}")
    problems = requests.problems(context.sweep.config.base, files)
    if problems:
        raise ConfigError([f"{trial.label}: {problem}" for problem in problems])
    identity = hashlib.sha256("\n".join((context.sweep.sweep_id, trial.trial_key, digest)).encode())
    return Candidate(trial, files, digest, reported.evaluation, identity.hexdigest()[:16])


def _objections(trial: TrialRun, reported: ReportedRows) -> list[str]:
    """Lists what cannot be verified of a trial's files."""
    objections = []
    if trial.adapter_sha256 is None:
        objections.append(f"its run {trial.run_id} has no tag sweep.adapter_sha256 to verify it by")
    if trial.rows_sha256 is None or reported.sha256 != trial.rows_sha256:
        objections.append("its eval_rows.json in MLflow is not the one that the trial wrote")
    if not reported.evaluation.hardware:
        # The hardware decides how exactly a second evaluation must agree.
        objections.append("it is not known on what it was evaluated")
    return objections


def base_of(sweep: TrackedSweep, candidates: Sequence[Candidate]) -> TrialSpec:
    """Returns the base with the activations' type of the candidates' evaluations, if they all name the same type."""
    spec = sweep.config.base
    hardware = {each.reported.hardware for each in candidates if each.reported.hardware}
    dtypes = {name.split()[1] for name in hardware}
    if len(dtypes) != 1:
        return spec
    quantization = spec.quantization.model_copy(update={"compute_dtype": dtypes.pop()})
    return spec.model_copy(update={"quantization": quantization})
