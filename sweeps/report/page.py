"""Turns the record and the status of a sweep into what its page shows: texts and numbers. Pure.

Texts are not escaped yet: trial reasons, names and prompts come from strangers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sweeps.config import points
from sweeps.config.number_words import duration
from sweeps.record.run_names import label
from sweeps.record.selection import choose, pareto
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared, facts, trial_tables
from sweeps.report.answers import Changes, Errors, errors
from sweeps.report.axes import Axis, axis, untried
from sweeps.report.facts import WHY, Fact
from sweeps.report.status import WORDS, State, Status
from sweeps.report.trial_story import SlotTime, Story
from sweeps.statistics.comparison import Separation
from trainables.objective import EVAL_LOSS, LOWEST_LOSS, Objective

BEST_CURVES = 5
"""Number of best trials whose train loss is drawn."""
MOST_STEPS = 400
"""Most steps of a train loss that are drawn; a longer curve is thinned evenly."""
MOST_LINES = 100
"""Number of best trials that are drawn in colour. The others are thin grey lines."""
MOST_DRAWN = 500
"""Charts draw about this many trials at most, or a page would grow by 2 kB with each trial."""
WENT_ON = "went on"


@dataclass(frozen=True)
class ChartTrial:
    """A trial in the charts."""

    record: TrialRecord
    values: tuple[float, ...]
    """Value of each objective at the best step; NaN before the first report."""
    evals: tuple[tuple[int, float], ...]
    """(step, value of the objective) of each report with a finite value."""
    reports: Mapping[int, float]
    """Place of a report -> finite value of the objective. If no report has one, the best step has its later score."""
    train: tuple[tuple[int, float], ...]
    """(step, train_loss); only for the best few trials."""
    slot_times: tuple[SlotTime, ...]
    hover_lines: tuple[str, ...]
    """Lines about the trial."""
    is_best: bool
    is_in_pareto_set: bool

    @property
    def value(self) -> float:
        """Returns the value of the first objective, which ranks the trials."""
        return self.values[0]

    @property
    def name(self) -> str:
        """Returns the trial's name in tables."""
        return label(self.record.number)


class ReportPoint(NamedTuple):
    """A report point, and what became of the trials that were evaluated there, without repeats."""

    step: int
    """The lowest step at which a trial came to the report point."""
    fates: Counter[str]
    """`WENT_ON`, or the state of trials without a later report -> number of trials."""


class Column(NamedTuple):
    """A column of the table of trials."""

    head: str
    meaning: str
    is_word: bool
    is_long: bool = False
    """Whether the column holds sentences, which are broken into lines."""


class Row(NamedTuple):
    """A row of the table of trials."""

    trial: str
    """The trial's name, as in the charts; empty for the base."""
    cells: tuple[str, ...]
    is_best: bool


@dataclass(frozen=True)
class Page:
    """The page of a sweep."""

    name: str
    sweep_id: str
    status: State
    state: str
    """`status` in words."""
    made: str
    """Time at which the page was made. The page shows the sweep at this time."""
    when: str
    best: str
    """The best trial and its value, or why there is none."""
    compared: tuple[str, ...]
    """How the best trial compares with others."""
    meanings: tuple[str, ...]
    """What the numbers in `best` and `compared` mean."""
    taken: tuple[Fact, ...]
    best_settings: tuple[tuple[str, str], ...]
    kept: tuple[str, Path] | None
    """What is kept of the best trial, such as its adapter, and its folder."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """Lines below the table."""
    answers: Changes | None
    """Rows on which answers of the best trial and of the base differ; None if answers were not scored."""
    errors: Errors | None
    """The rows that the best trial answers wrong; None if answers were not scored."""
    made_of: tuple[Fact, ...]
    warnings: tuple[str, ...]
    requests: tuple[str, ...]
    config: str
    """The resolved configuration as YAML."""
    objectives: tuple[Objective, ...]
    """Objectives in charts: the sweep's, or the loss instead of a score that few trials have."""
    base: float | None
    """Value of the first of `objectives` for the base without an adapter."""
    axes: tuple[Axis, ...]
    untried: tuple[str, ...]
    """Each field with untried values, followed by these values."""
    trials: tuple[ChartTrial, ...]
    """The best trial first; trials without a finite value last."""
    rungs: tuple[ReportPoint, ...]

    @property
    def is_running(self) -> bool:
        """Tells whether a process drives the sweep, so that the page will become outdated."""
        return self.status == "RUNNING"

    @property
    def metric(self) -> str:
        """Returns the metric of the first objective, which ranks the trials."""
        return self.objectives[0].metric

    @property
    def drawn(self) -> tuple[ChartTrial, ...]:
        """Returns the trials in the charts: the best ones, the Pareto set, and an even share of the others."""
        every = math.ceil((len(self.trials) - MOST_LINES) / (MOST_DRAWN - MOST_LINES))
        return tuple(
            trial
            for place, trial in enumerate(self.trials)
            if place < MOST_LINES or place % every == 0 or trial.is_in_pareto_set
        )


def page(
    status: Status,
    story: Story,
    separation: Separation | None,
    answers: Changes | None,
    now: float,
    price: float | None = None,
) -> Page:
    """Returns the page of a sweep as it stands `now`, in seconds since the epoch; see also `facts.taken`."""
    record = status.record
    selection = choose(record)
    best = selection.winner
    answer, *compared = best_compared.best_lines(record, selection, separation)
    columns, rows = _table(record, separation, best)
    charted = _charted(record)
    by_loss = [] if charted is record else [f"The charts draw {EVAL_LOSS}: few trials have {record.objective.metric}."]
    config = facts.raw_config(record)
    axes, missing = _axes(record)
    base = math.nan if charted.base is None else charted.base.metrics.get(charted.objective.metric, math.nan)
    return Page(
        name=str(config.get("name", status.folder.name)),
        sweep_id=status.sweep_id,
        status=status.state,
        state=WORDS[status.state],
        made=moment(now),
        when=_when(record, status),
        best=answer,
        compared=tuple(compared),
        taken=tuple(fact for fact in facts.taken(record, status.seconds, price) if fact.value),
        meanings=facts.meanings_of_answer(record, separation),
        best_settings=() if best is None else settings(best),
        kept=best_compared.kept_of_best(selection, status.folder, str(config.get("trainable", ""))),
        columns=columns,
        rows=rows,
        notes=(*trial_tables.notes(record), *by_loss),
        answers=answers,
        errors=None if answers is None else errors(record, answers.first),
        made_of=facts.made_of(record),
        warnings=tuple(story.warnings),
        requests=tuple(
            f"{each.asked}: {'granted' if each.is_accepted else 'refused'}: {each.message}" for each in story.requests
        ),
        config=facts.as_yaml(config),
        objectives=charted.objectives,
        base=base if math.isfinite(base) else None,
        axes=axes,
        untried=missing,
        trials=_chart_trials(charted, story, best),
        rungs=_rungs(record),
    )


def moment(seconds: float) -> str:
    """Formats seconds since the epoch as a time in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _when(record: SweepRecord, status: Status) -> str:
    if record.started is None:
        return "not begun"
    until = "now" if status.state == "RUNNING" or record.latest is None else moment(record.known_until)
    drivers = f", by {record.drivers} drivers in turn" if record.drivers > 1 else ""
    left = f", about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
    return f"{moment(record.started)} to {until}; it ran for {duration(status.seconds)}{drivers}{left}"


def settings(trial: TrialRecord) -> tuple[tuple[str, str], ...]:
    """Returns the trial's params as texts."""
    return tuple((name, trial_tables.value_text(value)) for name, value in trial.params.items())


def _table(
    record: SweepRecord, separation: Separation | None, winner: TrialRecord | None
) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    """Returns the table that `launch` prints, with more columns: a page is wide."""
    trials = trial_tables.order(record)
    found = trial_tables.cells(record, trials, separation)
    meanings = facts.meanings(record, separation)
    columns = tuple(
        Column(head, meanings.get(head, ""), head in (*trial_tables.WORDS, WHY, "key"), head == WHY)
        for head in (*found.heads, "tokens", "seconds", WHY, "key")
    )
    best = None if winner is None else winner.trial_key
    rows = []
    for trial, cells in zip(trials, found.rows, strict=False):  # the base's row comes after those of the trials
        why = trial.reason.removeprefix("stopped by the scheduler: ")
        rest = (f"{trial.tokens:,}", f"{trial.seconds:.1f}", why, trial.trial_key)
        rows.append(Row(label(trial.number), (*cells, *rest), trial.trial_key == best))
    rows += [Row("", (*cells, "", "", "", ""), False) for cells in found.rows[len(trials) :]]
    return columns, tuple(rows)


def _axes(record: SweepRecord) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """Returns an axis for each searched field, and each field with untried values."""
    known, trials = best_compared.configuration(record), record.trials.values()
    axes, missing = [], []
    for field, domain in () if known is None else known[1].domains.items():
        name = points.param(field)
        axes.append(axis(name, domain, [trial.params.get(name) for trial in trials]))
        if found := untried(domain, [trial.params.get(name) for trial in trials if trial.step]):
            missing.append(f"{name} {found}")
    return tuple(axes), tuple(missing)


def _rungs(record: SweepRecord) -> tuple[ReportPoint, ...]:
    found = []
    for place, (step, _, _) in enumerate(record.rungs(), 1):
        here = [trial for trial in record.trials.values() if trial.repeats is None and len(trial.evals) >= place]
        fates = Counter(WENT_ON if len(trial.evals) > place else trial.state.value for trial in here)
        found.append(ReportPoint(step, fates))
    return tuple(found)


def _charted(record: SweepRecord) -> SweepRecord:
    """Returns the record, judged by the loss if at most half of the trials with a report have a score.

    Charts of the score would not show the other trials.
    """
    trials = [trial for trial in record.trials.values() if trial.best_metrics]
    scored = sum(record.judges(trial) == record.objective for trial in trials)
    if not trials or 2 * scored > len(trials):
        return record
    others = (each for each in record.objectives[1:] if each.metric != EVAL_LOSS)
    return replace(record, objectives=(LOWEST_LOSS, *others))


def _chart_trials(record: SweepRecord, story: Story, best: TrialRecord | None) -> tuple[ChartTrial, ...]:
    objective = record.objective
    trials = sorted(
        record.trials.values(),
        key=lambda trial: (trial != best, objective.loss(trial.value(objective.metric)), trial.number),
    )
    several = len(record.objectives) > 1
    chosen = {trial.trial_key for trial in pareto(record)} if several else set()
    curves = [trial.trial_key for trial in trials if trial.repeats is None][:BEST_CURVES]
    return tuple(
        ChartTrial(
            record=trial,
            values=tuple(trial.value(each.metric) for each in record.objectives),
            evals=_finite([(step, metrics.get(objective.metric, math.nan)) for step, metrics in trial.evals]),
            reports=_reports(trial, objective.metric),
            train=_thinned(_finite(story.train.get(trial.trial_key, ()))) if trial.trial_key in curves else (),
            slot_times=tuple(story.slot_times.get(trial.trial_key, ())),
            hover_lines=tuple(_hover_lines(trial, objective.metric)),
            is_best=trial == best,
            is_in_pareto_set=trial.trial_key in chosen,
        )
        for trial in trials
    )


def _hover_lines(trial: TrialRecord, metric: str) -> list[str]:
    lines = [f"{label(trial.number)}: {trial.state} at step {trial.step}"]
    if math.isfinite(trial.value(metric)):
        lines.append(f"best {metric} {trial.value(metric):.4f} at step {trial.best_step}")
    lines += [f"{name} {setting[:70]}" for name, setting in settings(trial)]
    if trial.step:
        size = f", {trial.trainable_params:,} trainable parameters" if trial.trainable_params else ""
        lines.append(f"{trial.tokens:,} tokens, {trial.seconds:.0f} s{size}")
    return lines


def _reports(trial: TrialRecord, metric: str) -> dict[int, float]:
    found = {place: metrics.get(metric, math.nan) for place, (_, metrics) in enumerate(trial.evals)}
    found = {place: value for place, value in found.items() if math.isfinite(value)}
    best = [place for place, (step, _) in enumerate(trial.evals) if step == trial.best_step]
    return found or dict.fromkeys(best, trial.value(metric))


def _finite(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple((step, value) for step, value in points if math.isfinite(value))


def _thinned(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    every = math.ceil(len(points) / MOST_STEPS) or 1
    return points[::-1][::every][::-1]
