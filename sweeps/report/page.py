"""What the page of a sweep shows, as plain data: the record and the status in, texts and numbers out. Pure.

Texts are as they were told, and not yet escaped: trial reasons, names and prompts come from others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from search_spaces.domains import Domain
from sweeps.config.number_words import duration
from sweeps.config.passwords import without_passwords
from sweeps.record.events import TrialState
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, choose, pareto
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import closing_lines, page_facts, trial_tables
from sweeps.report.answers import Changes, confusion_of
from sweeps.report.axes import Axis, axis, untried
from sweeps.report.page_facts import WHY, Fact, Group
from sweeps.report.status import WORDS, State, Status
from sweeps.report.trial_story import Held, Story
from sweeps.statistics.comparison import Separation
from trainables.grading.choice import Confusion
from trainables.objective import EVAL_LOSS, LOWEST_LOSS, Objective

BEST_CURVES = 5
"""So many of the best trials have their train loss drawn."""
MOST_STEPS = 400
"""Most steps of a train loss that are drawn; a longer curve is thinned evenly."""
MOST_ROWS = 2000
"""Most rows of the table of trials."""
FATES = ("went on", "completed", "training on", "waiting there", "ended there")
"""What became of trials after their evaluation at a report point; those that failed before the next one ended there."""
_FATE = {
    TrialState.COMPLETED: "completed",
    TrialState.RUNNING: "training on",
    TrialState.PENDING: "training on",
    TrialState.PARKED: "waiting there",
    TrialState.PAUSED: "waiting there",
}


@dataclass(frozen=True)
class Drawn:
    """A trial, as the charts draw it."""

    record: TrialRecord
    values: tuple[float, ...]
    """The value of each objective at the best step; NaN before the first report."""
    evals: tuple[tuple[int, float], ...]
    """(step, value of the objective) of each report with a finite one."""
    reports: Mapping[int, float]
    """Place of a report among the trial's -> the objective's value; the best one alone where reports have none."""
    train: tuple[tuple[int, float], ...]
    """(step, train_loss), of the best few alone."""
    held: tuple[Held, ...]
    is_best: bool
    is_in_pareto_set: bool

    @property
    def value(self) -> float:
        """The value of the first objective, which decides."""
        return self.values[0]

    @property
    def name(self) -> str:
        """As tables name it."""
        return label(self.record.number)


@dataclass(frozen=True)
class Rung:
    """A report point, and what became of the trials that were evaluated there; repeats are left out."""

    step: int
    """The lowest, where trials come to it at different steps."""
    fates: Mapping[str, int]
    """One of `FATES` -> of how many trials it is the fate."""

    @property
    def reached(self) -> int:
        """How many trials were evaluated there."""
        return sum(self.fates.values())


@dataclass(frozen=True)
class Column:
    """A column of the table of trials."""

    head: str
    meaning: str
    is_word: bool
    is_long: bool = False
    """Whether it holds sentences, which are broken into lines."""


@dataclass(frozen=True)
class Row:
    """A row of the table of trials."""

    trial: str
    """Its name, as the charts tell it; empty for the base."""
    cells: tuple[str, ...]
    is_best: bool


@dataclass(frozen=True)
class Page:
    """The page of a sweep."""

    name: str
    sweep_id: str
    status: State
    state: str
    """The same in words."""
    made: str
    """When the page was made: what it says is as of then."""
    when: str
    best: str
    """The best trial and its value, or why there is none."""
    compared: tuple[str, ...]
    """How it compares with others."""
    meanings: tuple[str, ...]
    """What the numbers in the answer mean."""
    best_settings: tuple[tuple[str, str], ...]
    kept: tuple[str, Path] | None
    """What is kept of the best trial, such as its adapter, and the folder of that."""
    outcome: tuple[str, ...]
    """Trials, cost and plan, as `launch` tells them."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    left_out: int
    """Trials that the table has no row of: the last ones."""
    notes: tuple[str, ...]
    """Below the table."""
    answers: Changes | None
    """Where the answers of the best trial and of the base differ; None where they were not scored."""
    confusion: Confusion | None
    """Which label the best trial takes for which; None where its answers are no labels."""
    cost: tuple[Fact, ...]
    made_of: tuple[Group, ...]
    warnings: tuple[str, ...]
    requests: tuple[str, ...]
    """What was asked of the running sweep, and its answers."""
    config: str
    """The resolved configuration as YAML."""
    objectives: tuple[Objective, ...]
    """What charts draw: the sweep's, or the loss in place of a score that few trials have."""
    base: float | None
    """The first of them of the base without an adapter."""
    axes: tuple[Axis, ...]
    untried: tuple[str, ...]
    """Fields of which values were not tried, each with these."""
    trials: tuple[Drawn, ...]
    """Best first, then those without a finite value."""
    rungs: tuple[Rung, ...]

    @property
    def is_running(self) -> bool:
        """Whether a process drives the sweep: what the page says will change."""
        return self.status == "RUNNING"

    @property
    def metric(self) -> str:
        """What decides which trial is better."""
        return self.objectives[0].metric


def page(status: Status, story: Story, separation: Separation | None, answers: Changes | None, now: float) -> Page:
    """The page of a sweep as it stands `now`, in seconds since the epoch."""
    record = status.record
    selection = choose(record.trials.values(), record.objective)
    best = selection.winner or status.best
    answer, *compared = closing_lines.so_far(status, selection, separation)
    note = closing_lines.first_trial(record).note
    columns, rows = _table(record, separation, selection)
    charted = _charted(record)
    by_loss = [] if charted is record else [f"The charts draw {EVAL_LOSS}: few trials have {record.objective.metric}."]
    config = page_facts.raw_config(record)
    axes, missing = _axes(record)
    return Page(
        name=str(config.get("name", status.folder.name)),
        sweep_id=status.sweep_id,
        status=status.state,
        state=WORDS[status.state],
        made=moment(now),
        when=_when(record, status),
        best=answer,
        compared=tuple(compared),
        meanings=page_facts.meanings_of_answer(record, separation),
        best_settings=() if best is None else settings(best),
        kept=closing_lines.kept(best, status.folder, str(config.get("trainable", ""))),
        outcome=tuple(_outcome(status)),
        columns=columns,
        rows=rows,
        left_out=max(0, len(record.trials) - MOST_ROWS),
        notes=(*([note] if note else []), *trial_tables.notes(record), *by_loss),
        answers=answers,
        confusion=None if answers is None else confusion_of(answers.first),
        cost=page_facts.cost(record, status.seconds),
        made_of=page_facts.made_of(record),
        warnings=tuple(map(without_passwords, story.warnings)),
        requests=tuple(_request(each.asked, each.is_accepted, each.message) for each in story.requests),
        config=page_facts.as_yaml(config),
        objectives=charted.objectives,
        base=_base_value(charted),
        axes=axes,
        untried=missing,
        trials=_drawn(charted, story, best),
        rungs=_rungs(record),
    )


def moment(seconds: float) -> str:
    """A time, as people read it everywhere: in UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):  # what a damaged log may say
        return f"{seconds:g} s after 1970"


def _outcome(status: Status) -> list[str]:
    record = status.record
    lines = closing_lines.outcome(status)
    if status.state == "RUNNING":
        left = f"; about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
        lines.append(f"{len(record.trials) - record.repeats} of {status.planned_trials or '?'} trials have begun{left}")
    return lines


def _when(record: SweepRecord, status: Status) -> str:
    if record.started is None:
        return "not begun"
    until = "now" if status.state == "RUNNING" or record.latest is None else moment(record.known_until)
    drivers = f", by {record.drivers} drivers in turn" if record.drivers > 1 else ""
    return f"{moment(record.started)} to {until}; it ran for {duration(status.seconds)}{drivers}"


def _request(asked: str, is_accepted: bool, message: str) -> str:
    return f"{asked}: {'granted' if is_accepted else 'refused'}: {message}"


def settings(trial: TrialRecord) -> tuple[tuple[str, str], ...]:
    """The trial's params as texts."""
    return tuple((name, trial_tables.value_text(value)) for name, value in trial.params.items())


def _base_value(record: SweepRecord) -> float | None:
    value = math.nan if record.base is None else record.base.metrics.get(record.objective.metric, math.nan)
    return value if math.isfinite(value) else None


def _table(
    record: SweepRecord, separation: Separation | None, selection: Selection
) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    """The table that `launch` prints, with what a wide page has room for."""
    trials = trial_tables.order(record)[:MOST_ROWS]
    found = trial_tables.cells(record, trials, separation)
    meanings = page_facts.meanings(record, separation)
    columns = [Column(head, meanings.get(head, ""), found.is_word(place)) for place, head in enumerate(found.heads)]
    columns += [Column(head, meanings.get(head, ""), False) for head in ("tokens", "seconds")]
    columns += [Column(head, meanings.get(head, ""), True, head == WHY) for head in (WHY, "key")]
    best = selection.winner.trial_key if selection.winner is not None else None
    rows = []
    for trial, cells in zip(trials, found.rows, strict=False):  # the base's row comes after those of the trials
        why = without_passwords(trial.reason).removeprefix("stopped by the scheduler: ")
        rest = (f"{trial.tokens:,}", f"{trial.seconds:.1f}", why, trial.trial_key)
        rows.append(Row(label(trial.number), (*cells, *rest), trial.trial_key == best))
    rows += [Row("", (*cells, "", "", "", ""), False) for cells in found.rows[len(trials) :]]
    return tuple(columns), tuple(rows)


def _axes(record: SweepRecord) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """An axis for each searched field, and what was not tried of each."""
    known = closing_lines.configuration(record)
    domains: Mapping[str, Domain] = {} if known is None else known[1].domains
    fields = [name for trial in record.trials.values() for name in trial.point or ()]
    names = {field: field.partition(".")[2] for field in dict.fromkeys([*domains, *fields])}
    trials = record.trials.values()
    axes, missing = [], []
    for field, name in names.items():
        axes.append(axis(name, domains.get(field), [trial.params.get(name) for trial in trials]))
        if found := untried(domains.get(field), [trial.params.get(name) for trial in trials if trial.step]):
            missing.append(f"{name} {found}")
    return tuple(axes), tuple(missing)


def _rungs(record: SweepRecord) -> tuple[Rung, ...]:
    found = []
    for place, (step, _, _) in enumerate(record.rungs(), 1):
        fates = dict.fromkeys(FATES, 0)
        for trial in record.trials.values():
            if trial.repeats is None and len(trial.evals) >= place:
                fate = "went on" if len(trial.evals) > place else _FATE.get(trial.state, "ended there")
                fates[fate] += 1
        found.append(Rung(step, fates))
    return tuple(found)


def _charted(record: SweepRecord) -> SweepRecord:
    """The record, judged by the loss where at most half of the trials that have reported have a score.

    Of the others charts would show nothing.
    """
    trials = [trial for trial in record.trials.values() if trial.best_metrics]
    scored = sum(record.judges(trial) == record.objective for trial in trials)
    if not trials or 2 * scored > len(trials):
        return record
    others = (each for each in record.objectives[1:] if each.metric != EVAL_LOSS)
    return replace(record, objectives=(LOWEST_LOSS, *others))


def _drawn(record: SweepRecord, story: Story, best: TrialRecord | None) -> tuple[Drawn, ...]:
    objective = record.objective
    trials = sorted(
        record.trials.values(), key=lambda trial: (objective.loss(trial.value(objective.metric)), trial.number)
    )
    several = len(record.objectives) > 1
    chosen = {trial.trial_key for trial in pareto(trials, record.objectives)} if several else set()
    curves = [trial.trial_key for trial in trials if trial.repeats is None][:BEST_CURVES]
    return tuple(
        Drawn(
            record=trial,
            values=tuple(trial.value(each.metric) for each in record.objectives),
            evals=_finite([(step, metrics.get(objective.metric, math.nan)) for step, metrics in trial.evals]),
            reports=_reports(trial, objective.metric),
            train=_thinned(_finite(story.train.get(trial.trial_key, ()))) if trial.trial_key in curves else (),
            held=tuple(story.held.get(trial.trial_key, ())),
            is_best=best is not None and trial.trial_key == best.trial_key,
            is_in_pareto_set=trial.trial_key in chosen,
        )
        for trial in trials
    )


def _reports(trial: TrialRecord, metric: str) -> dict[int, float]:
    found = {place: metrics.get(metric, math.nan) for place, (_, metrics) in enumerate(trial.evals)}
    found = {place: value for place, value in found.items() if math.isfinite(value)}
    best = [place for place, (step, _) in enumerate(trial.evals) if step == trial.best_step]
    return found or dict.fromkeys(best, trial.value(metric))


def _finite(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple((step, value) for step, value in points if math.isfinite(value))


def _thinned(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """At most `MOST_STEPS` of the points, the last one among them."""
    every = math.ceil(len(points) / MOST_STEPS) or 1
    return points[::-1][::every][::-1]
