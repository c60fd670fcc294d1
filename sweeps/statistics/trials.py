"""Compares trials by the losses and scores of evaluation rows that the folders of sweeps keep."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sweeps.record.events import TrialReported, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.record.selection import ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.statistics.comparison import MOST_COMPARED, Pair, Separation, compare, separate
from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.intervals import SeedNoise, pooled
from trainables.contract import Evaluation
from trainables.inputs import json_text
from trainables.objective import EVAL_BITS, EVAL_LOSS, LOWEST_LOSS, PER_TOKEN, Objective
from trainables.scoring.requests import BASE

OTHER_ROWS = "they were evaluated on other rows"
UNKNOWN_ROWS = "it is not known whether they were evaluated on the same rows"
EXACT = 1e-6
"""Share by which a metric may differ from the mean of its rows: a trainable may compute in single precision."""


def compare_best(folder: SweepFolder, record: SweepRecord) -> Separation | None:
    """Compares the best trial with the next ones, trial 0 and the base; None if there is nothing to compare."""
    ranked = _with_value(record)
    if not ranked or (len(ranked) == 1 and _of_base(folder, record, ranked[0], record.objective) is None):
        return None
    best, *rest = ranked
    near = {trial.trial_key for trial in (*rest[:MOST_COMPARED], *_best_of_bases(ranked))}
    compared = [trial for trial in rest if trial.number == 0 or trial.trial_key in near]
    return _separated(folder, record, best, compared, len(ranked))


def _best_of_bases(ranked: Sequence[TrialRecord]) -> Collection[TrialRecord]:
    """Returns the best trial of each base; of one base the best of all, which is compared with no other."""
    return {trial.base_name: trial for trial in reversed(ranked)}.values()


def _with_value(record: SweepRecord) -> list[TrialRecord]:
    metric = record.objective.metric
    return [trial for trial in ranking(record) if math.isfinite(trial.value(metric))]


def compare_chosen(
    folder: SweepFolder, record: SweepRecord, first: TrialRecord, others: Sequence[TrialRecord]
) -> Separation:
    """Compares a trial that the user chose with others. Others without a value are left out.

    The confidence is that of `compare_best`: the trials were chosen on the rows that compare them. A difference that
    may be chance in the closing table may be chance here too.
    """
    metric = record.objective.metric
    told = [trial for trial in others if math.isfinite(trial.value(metric))]
    if not math.isfinite(first.value(metric)):
        told = []
    # Trials that have not ended may be chosen too, so they count. A pair then has the same interval whichever other
    # trials are named.
    unended = [t for t in record.trials.values() if not t.state.is_final and math.isfinite(t.value(metric))]
    in_all = len({trial.trial_key for trial in (*_with_value(record), *unended)})
    # The base counts as in the closing table. Its losses also tell apart rows on which good adapters have equal losses.
    compared = _separated(folder, record, first, told, max(in_all, len(told) + 1))
    return replace(compared, base=None, not_compared=0)


class Chosen(NamedTuple):
    """A trial of one of several sweeps."""

    folder: SweepFolder
    record: SweepRecord
    trial: TrialRecord


def rows_differ(one: SweepRecord, other: SweepRecord) -> str:
    """Says why two sweeps cannot be compared row by row; empty if they have the same evaluation rows."""
    key, tokens = "eval_fingerprint", "fingerprint"
    if one.data.get(tokens) == other.data.get(tokens) is not None or one.data.get(key, "") == other.data.get(key) != "":
        return ""
    return OTHER_ROWS if one.data.get(key) and other.data.get(key) else UNKNOWN_ROWS


def common_objective(chosen: Sequence[Chosen]) -> Objective:
    """Returns the objective by which trials of several sweeps are compared.

    This is the objective that all of them share, else the loss. If the same rows have other tokens, the loss is taken
    per byte of the completions.
    """
    first, *others = {each.record.judges(each.trial) for each in chosen}
    objective = LOWEST_LOSS if others else first
    if objective.metric not in PER_TOKEN:
        return objective
    found = [_of_trial(each.folder, EVAL_LOSS, each.trial, each.trial.best_step) for each in chosen]
    own = [
        evaluation
        for each, evaluation in zip(chosen, found, strict=True)
        if isinstance(evaluation, Evaluation) and not rows_differ(chosen[0].record, each.record)
    ]
    if any(each.places for each in own):
        common = set.intersection(*(set(each.places_of(EVAL_LOSS)) for each in own))
        own = [each.on(common) for each in own]
    return objective if len({each.row_tokens for each in own}) < 2 else Objective(metric=EVAL_BITS)


def compare_sweeps(objective: Objective, chosen: Sequence[Chosen]) -> Separation:
    """Compares the first trial with trials of other sweeps, in their order, each at its best step.

    A trial that cannot be compared has the difference NaN, and the reason as `unknown`. The confidence is that of
    `compare_best` over the trials of all comparable sweeps, because each trial was chosen among those of its own sweep.
    """
    first, *others = chosen
    pairs = [_across(objective, first, other) for other in others]
    comparable = [first, *(other for other, pair in zip(others, pairs, strict=True) if math.isfinite(pair.difference))]
    records = {id(each.record): each.record for each in comparable}.values()
    groups = [group for record in records for group in _repeated(record.trials.values(), objective.metric)]
    ranked = max(len(comparable), sum(len(_with_value(record)) for record in records))
    return separate(objective, pairs, None, ranked, pooled(groups))


def compare_answers(objective: Objective, first: Chosen, other: TrialRecord | None) -> Separation:
    """Compares scores of a trial with those of another trial of the sweep, or of the base for None, at best steps."""
    if other is not None:
        return compare_sweeps(objective, [first, first._replace(trial=other)])
    seeds = noise(first.record.trials.values(), objective.metric)
    return separate(objective, [], _of_base(*first, objective), len(_with_value(first.record)), seeds)


def _across(objective: Objective, first: Chosen, other: Chosen) -> Pair:
    metric, steps = objective.metric, (other.trial.best_step or 0, first.trial.best_step or 0)
    gain = objective.gain(other.trial.value(metric), first.trial.value(metric))
    why = "" if first.record is other.record else rows_differ(first.record, other.record)
    if not why and not math.isfinite(gain):
        why = f"not both have {metric}"
    if why:
        return Pair(other.trial.trial_key, math.nan, why, why, steps)
    mine, its = (
        _of_trial(each.folder, metric, each.trial, each.trial.best_step, f"{each.folder.path.name} ")
        for each in (first, other)
    )
    pair = _on_common_rows(objective, Pair(other.trial.trial_key, gain, its, mine, steps))
    its, mine = pair.evaluation, pair.first
    if isinstance(mine, Evaluation) and isinstance(its, Evaluation) and metric not in PER_TOKEN:
        if mine.row_bytes != its.row_bytes and metric == EVAL_BITS:
            its = "data.max_length cuts their rows at other places"
        else:
            its = its.model_copy(update={"row_tokens": mine.row_tokens})  # a score counts rows, whatever their tokens
    return pair._replace(evaluation=its)


def _on_common_rows(objective: Objective, pair: Pair) -> Pair:
    """Returns the pair, and its difference, on the rows that both evaluations have."""
    its, mine = pair.evaluation, pair.first
    if isinstance(its, str) or isinstance(mine, str) or not (its.places or mine.places):
        return pair
    common = set(its.places_of(EVAL_LOSS)) & set(mine.places_of(EVAL_LOSS))
    its, mine = its.on(common), mine.on(common)
    found = [each.rows_of(objective.metric) for each in (its, mine)]
    values = [sum(rows.parts) / sum(rows.weights) for rows in found if rows is not None and sum(rows.weights) > 0]
    if len(values) < 2:
        return pair._replace(evaluation=OTHER_ROWS)
    return pair._replace(evaluation=its, first=mine, difference=objective.gain(*values), part=len(common))


def _separated(
    folder: SweepFolder, record: SweepRecord, first: TrialRecord, others: Sequence[TrialRecord], ranked: int
) -> Separation:
    objective = record.objective
    pairs = [_pair(folder, objective, first, other) for other in others]
    seeds = noise(record.trials.values(), objective.metric)
    return separate(objective, pairs, _of_base(folder, record, first, objective), ranked, seeds)


def is_gain(folder: SweepFolder, record: SweepRecord, report: TrialReported) -> bool | None:
    """Tells whether a trial's first report beats the first report of the last trial with a gain, beyond chance.

    Chance covers the evaluation rows, and seeds if trials were repeated. If there is no interval, any better value is a
    gain. None for a later report and for a repeat, which is not a new point. `record` is the one before this report.
    """
    trial = record.trials[report.trial_key]
    if trial.evals or trial.repeats is not None:
        return None
    if record.last_gain is None:
        return True
    best = record.trials[record.last_gain]
    step, metrics = best.evals[0]
    objective = record.objective.judging(report.metrics).judging(metrics)
    value, before = objective.of(report.metrics), objective.of(metrics)
    if not (report.part or best.parts or objective.is_better(value, before)):
        return False
    measured = value if report.part is None else objective.of(report.part.metrics)
    rows, of_best = (
        _read([folder.kept(key, "rows", at) / "eval_rows.json"], objective.metric, its, key)
        for key, at, its in (
            (report.trial_key, report.step, measured),
            (best.trial_key, step, best.measured_at(step, objective.metric)),
        )
    )
    pair = _on_common_rows(objective, Pair(best.trial_key, objective.gain(before, value), of_best, rows))
    if not pair.difference > 0:
        return False
    seeds = noise(record.trials.values(), objective.metric)
    found = compare(objective, [pair], confidence_of(1), seeds)
    return found.pairs[0].apart is not False


def noise(trials: Iterable[TrialRecord], metric: str) -> SeedNoise | None:
    """Returns the spread of the metric over seeds; None if no repeat was trained to its end (`searcher.repeats`)."""
    return pooled(_repeated(trials, metric))


def _repeated(trials: Iterable[TrialRecord], metric: str) -> list[list[float]]:
    """Returns the values of each point that was trained several times to its end."""
    groups: dict[str, list[float]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETED and math.isfinite(trial.value(metric)):
            groups.setdefault(trial.repeats or trial.trial_key, []).append(trial.value(metric))
    return [values for values in groups.values() if len(values) > 1]


def _of_base(folder: SweepFolder, record: SweepRecord, best: TrialRecord, objective: Objective) -> Pair | None:
    metric = objective.metric
    base = record.base_of(best)
    if base is None or metric not in base.metrics:
        return None
    value = base.metrics[metric]
    rows = _read([folder.of_base(base.base)[0]], metric, value, "the base")
    gain = objective.gain(value, best.value(metric))
    return _on_common_rows(objective, Pair(BASE, gain, rows, _of_trial(folder, metric, best, best.best_step)))


def _pair(folder: SweepFolder, objective: Objective, first: TrialRecord, other: TrialRecord) -> Pair:
    """Pairs two trials after equal steps, or at their best steps if no rows were kept after equal steps."""
    found = [_at(folder, objective, first, other, steps) for steps in _steps(first, other)]
    whole = [each for each in found if isinstance(each.first, Evaluation) and isinstance(each.evaluation, Evaluation)]
    return (whole or found)[0]


def _at(
    folder: SweepFolder, objective: Objective, first: TrialRecord, other: TrialRecord, steps: tuple[int, int]
) -> Pair:
    metric, (own, of_first) = objective.metric, steps
    points = other.points.get(own), first.points.get(of_first)
    pair = Pair(
        other.trial_key,
        objective.gain(other.value_at(own, metric), first.value_at(of_first, metric)),
        _of_trial(folder, metric, other, own),
        _of_trial(folder, metric, first, of_first),
        steps,
        points[0] if points[0] == points[1] else None,
    )
    return _on_common_rows(objective, pair)


def _steps(first: TrialRecord, other: TrialRecord) -> list[tuple[int, int]]:
    """Lists steps of both trials at which to compare them, in order of preference: (of `other`, of `first`).

    If both best steps lie at or before the latest common report point, both trials had equal steps to become best in.
    Otherwise best steps favour the trial that went on, so the common point comes first.
    """
    at_best = (other.best_step or 0, first.best_step or 0)
    common = set(first.points.values()) & set(other.points.values())
    if not common:
        return [at_best]
    point = max(common)
    own, of_first = (next(step for step, its in t.points.items() if its == point) for t in (other, first))
    return [at_best] if at_best[0] <= own and at_best[1] <= of_first else [(own, of_first), at_best]


def _of_trial(
    folder: SweepFolder, metric: str, trial: TrialRecord, step: int | None, sweep: str = ""
) -> Evaluation | str:
    """Returns the rows of a trial at a step, or why they cannot be used; `sweep` is a prefix of the trial's name."""
    at = step or 0
    paths = [folder.kept(trial.trial_key, "rows", at)]
    if at == trial.best_step and trial.adapter is not None:
        # Rows beside the adapter have a finalist's scores, and are the only ones if budget.disk had no room for others.
        # A trial that went on after its evaluation on all rows compares by the part of its report again.
        paths.insert(0 if trial.best_part is None else 1, folder.path / trial.adapter)
    name = f"{sweep}{label(trial.number)} at step {at}"
    return _read([path / "eval_rows.json" for path in paths], metric, trial.measured_at(at, metric), name)


def _read(paths: Sequence[Path], metric: str, value: float, name: str) -> Evaluation | str:
    """Reads the first existing file; returns its evaluation, or why its rows cannot be used or miss `value`."""
    try:
        path = next((each for each in paths if each.exists()), paths[0])
        evaluation = Evaluation.of_document(json_text.parse(path.read_bytes()))
    except FileNotFoundError:
        return f"the rows of {name} are missing"
    except (OSError, ValueError, TypeError):
        return f"the rows of {name} cannot be read"
    rows = evaluation.rows_of(metric)
    if rows is None:
        return f"the trainable gives no value per row for {metric}"
    off = abs(sum(rows.parts) - value * sum(rows.weights))
    # Do not negate this test: NaN must fail it.
    if len(rows.parts) == len(rows.weights) and sum(rows.weights) > 0 and off <= EXACT * sum(map(abs, rows.parts)):
        return evaluation
    return f"the rows of {name} are not those of its {metric}"
