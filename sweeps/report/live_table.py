"""Shows a running sweep on stderr: a live table in a terminal, one line per event elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live

from sweeps import timeouts
from sweeps.config.number_words import counted, parts
from sweeps.config.passwords import hidden
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    Event,
    PointInfeasible,
    RequestAnswered,
    TargetSettled,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialScored,
    TrialStarted,
    TrialState,
)
from sweeps.record.run_names import label, run_name
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import streams, trial_tables
from sweeps.report.time_left import Rates, Trained, seconds_left
from trainables.contract import StepRecord
from trainables.inputs.legible import MOST_SHOWN, legible
from trainables.objective import EVAL_LOSS
from trainables.specs import short_names

FEWEST_ROWS = 5
OTHER_LINES = 7
"""Lines of the live table besides those of trials: head, base, trials left out, and two or three of status."""


class Display(Protocol):
    """A display of a running sweep, which listens to the journal."""

    def __call__(self, event: Event, record: SweepRecord) -> None:
        """Shows what `event` changed."""

    def say(self, line: str) -> None:
        """Shows a line of text."""

    def latest(self, steps: Mapping[str, StepRecord]) -> None:
        """Shows the progress of trials between reports. `steps` maps trial keys to their last steps."""


class Lines:
    """Prints one line per event."""

    def __init__(self, console: Console, started: float, clock: Callable[[], float]) -> None:
        self._console, self._started, self._clock = console, started, clock
        self._record = SweepRecord()
        self._said = started
        self._stood: list[str] = []
        """The progress of trials that was printed last."""

    def __call__(self, event: Event, record: SweepRecord) -> None:
        """See `Display`."""
        self._record = record
        for line in describe(event, record):
            self.say(line)

    def say(self, line: str) -> None:
        """See `Display`."""
        self._said = self._clock()
        minutes, seconds = divmod(int(self._said - self._started), 60)
        self._console.print(
            f"{minutes:02d}:{seconds:02d} {_shown(line)}", markup=False, highlight=False, soft_wrap=True
        )

    def latest(self, steps: Mapping[str, StepRecord]) -> None:
        """See `Display`. Prints a line only if nothing else was printed for `timeouts.QUIET_SECONDS`."""
        stands = [
            f"{label(trial.number)} step {latest.step} train_loss {latest.train_loss:.4f}"
            for trial in self._record.trials.values()
            if (latest := steps.get(trial.trial_key)) is not None and trial.state is TrialState.RUNNING
        ]
        # A trial that evaluates takes no step: the same line again would tell nothing.
        if stands and stands != self._stood and self._clock() - self._said >= timeouts.QUIET_SECONDS:
            self._stood = stands
            self.say(f"on the way: {', '.join(stands)}")


class Table(AbstractContextManager["Table"]):
    """Redraws a table of trials in place, with a status line below."""

    def __init__(self, console: Console, clock: Callable[[], float], planned: int | None) -> None:
        self._console, self._clock, self._planned = console, clock, planned
        self._record = SweepRecord()
        self._steps: Mapping[str, StepRecord] = {}
        self._training_since: float | None = None
        self._before: dict[str, Trained] = {}
        """Trial key -> what earlier drivers trained."""
        self._going_on: set[str] = set()
        """Keys of `_before` whose trials have not taken a step under this driver. Snapshots may be ahead of reports."""
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=1 / timeouts.TABLE_SECONDS, transient=True
        )

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event, record: SweepRecord) -> None:
        """See `Display`."""
        self._record = record
        if isinstance(event, DataPrepared):
            self._training_since = self._clock()
            self._before = {key: Trained.of([trial]) for key, trial in record.trials.items()}
            self._going_on = set(self._before)
            for line in describe(event, record):
                self.say(line)

    def say(self, line: str) -> None:
        """See `Display`. The line stands above the table, and stays when the table is erased."""
        shown = streams.fitted(_shown(line), self._console.file)
        self._console.print(shown, markup=False, highlight=False, soft_wrap=True)

    def latest(self, steps: Mapping[str, StepRecord]) -> None:
        """See `Display`."""
        self._steps = steps
        for key in self._going_on & steps.keys():
            self._before[key] = Trained(steps[key].step, steps[key].tokens)
        self._going_on -= steps.keys()

    def _trials(self) -> list[TrialRecord]:
        """Returns the trials with the steps that they have taken since their last reports."""
        trials = sorted(self._record.trials.values(), key=lambda trial: trial.number)
        return [_at(trial, self._steps.get(trial.trial_key)) for trial in trials]

    def _draw(self) -> RenderableType:
        trials = self._that_fit(self._trials())
        left = len(self._record.trials) - len(trials)
        more = f"{left} more trials: qsweep status shows all" if left else None
        table = trial_tables.terminal(self._record, trials, more) if trials else ""
        return Group(table, self._status())

    def _that_fit(self, trials: list[TrialRecord]) -> list[TrialRecord]:
        """Returns the trials for which the terminal has lines, by number: those that train, then the best.

        The limit also saves the driver's time: 1000 rows twice a second would take more than the driver has.
        """
        room, sort_key = max(FEWEST_ROWS, self._console.height - OTHER_LINES), self._record.objective.sort_key
        first = sorted(trials, key=lambda trial: (trial.state is not TrialState.RUNNING, sort_key(trial.best_metrics)))
        return sorted(first[:room], key=lambda trial: trial.number)

    def _status(self) -> str:
        now, planned = self._clock(), self._record.trials_in_all(self._planned)
        counts = " ".join(f"{count} {state.lower()}" for state, count in self._record.counts().items())
        trials = trial_tables.how_many(self._record, planned, " trials")
        words = [_clock_text(self._record.seconds_spent(now)), trials, counts]
        best = choose(self._record).winner
        if best is not None:
            metric = self._record.judges(best).metric
            loss = "" if metric == self._record.objective.metric else f"{metric} "
            words.append(f"best {loss}{best.value(metric):.4f} ({label(best.number)})")
        return " · ".join(word for word in [*words, *self._speed(now)] if word)

    def _speed(self, now: float) -> list[str]:
        if self._training_since is None:
            return []
        earlier, done = self._before.values(), Trained.of(self._trials())
        before = Trained(sum(each.steps for each in earlier), sum(each.tokens for each in earlier))
        rates = Rates.between(before, done, now - self._training_since)
        words = [] if rates is None else [f"{rates.tokens_per_second:.0f} tokens/s"]
        left = seconds_left(self._record, rates, done.steps, self._record.trials_in_all(self._planned), self._planned)
        if left is not None:
            words.append(f"about {_clock_text(left)} left")
        return words


class Displayed:
    """Shows a sweep on several displays."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays

    def __call__(self, event: Event, record: SweepRecord) -> None:
        """See `Display`."""
        for display in self._displays:
            display(event, record)

    def say(self, line: str) -> None:
        """See `Display`."""
        for display in self._displays:
            display.say(line)

    def latest(self, steps: Mapping[str, StepRecord]) -> None:
        """See `Display`."""
        for display in self._displays:
            display.latest(steps)


def _shown(line: str) -> str:
    """Removes passwords and control characters: the line may hold an error of a library."""
    return legible(hidden(line))


def _at(trial: TrialRecord, latest: StepRecord | None) -> TrialRecord:
    """Returns the trial at its last step."""
    if latest is None or latest.step <= trial.step or trial.state.is_final:
        return trial
    return replace(trial, step=latest.step, tokens=latest.tokens, seconds=latest.seconds)


def describe(event: Event, record: SweepRecord) -> list[str]:
    """Describes an event in lines; empty for events that are not shown."""
    match event:
        case DataPrepared():
            return [*_data(event.summary), *(f"warning: {warning}" for warning in event.warnings)]
        case BaseEvaluated():
            name = f"base {short_names([*record.bases, event.base])[event.base]}" if event.base else "base"
            return [f"{name} without an adapter: {_values(event.metrics, record)} on {counted(event.rows, 'row')}"]
        case TargetSettled():
            return [event.line]
        case TrialStarted():
            known = record.trials.get(event.trial_key)
            begins = f"goes on from step {known.step}" if known is not None and known.step else "started"
            return [f"{run_name(event.number, event.params)}: {begins}"]
        case PointInfeasible():
            return [f"{run_name(event.number, event.params)}: INFEASIBLE: {legible(event.reason, MOST_SHOWN)}"]
        case TrialReported() | TrialScored():
            return [_evaluated(event, record)]
        case TrialParked():
            name = label(record.trials[event.trial_key].number)
            return [f"{name} parked at step {event.step}: goes on if it is among the best"]
        case TrialEnded():
            trial = record.trials[event.trial_key]
            reason = f": {legible(event.reason, MOST_SHOWN)}" if event.reason else ""
            return [f"{label(trial.number)} {event.state.value} at step {trial.step}{reason}"]
        # The handler of a signal has already said that the sweep ends, and how to end it at once.
        case RequestAnswered() if not (event.is_accepted and event.sender in signal.Signals.__members__):
            refused = "" if event.is_accepted else "refused: "
            return [f"{event.asked} ({event.sender}): {refused}{event.message}"]
        case _:
            return []


def _evaluated(event: TrialReported | TrialScored, record: SweepRecord) -> str:
    trial = record.trials[event.trial_key]
    if isinstance(event, TrialScored):
        scores = [f"{name} {value:.4f}" for name, value in event.metrics.items()]
        scores += [trial_tables.lacking(event.unscored)] if event.unscored else []
        done = "evaluated on all rows" if event.has_all_rows else "scored"
        return f"{label(trial.number)} {done} at step {event.step}: {', '.join(scores)}"
    missing = f"; {trial_tables.lacking(event.unscored)}" if event.unscored else ""
    best = f": {record.judges(trial).of(event.best_metrics):.4f}" if event.best_step != event.step else ""
    on = f" by {event.part.rows} of {record.data['eval_rows']} rows" if event.part is not None else ""
    return f"{label(trial.number)} step {event.step}: {_values(event.metrics, record)}{on} (its best{best}){missing}"


def _data(summary: Mapping[str, Any]) -> list[str]:
    if not summary["train_rows"]:
        return []
    rows = parts(summary["train_rows"], summary["eval_rows"], summary.get("test_rows"))
    line = f"data: {rows}; the longest row has {{longest_row}} tokens"
    if summary["truncated_rows"] or summary["dropped_rows"]:
        line += "; {truncated_rows} cut to data.max_length, {dropped_rows} left out (no completion left)"
    return [line.format_map(summary)]


def _values(metrics: Mapping[str, float], record: SweepRecord) -> str:
    """Formats an evaluation's values of the sweep's objectives, with the loss if answers are not scored."""
    names = [objective.metric for objective in record.objectives if objective.metric in metrics]
    names += [EVAL_LOSS] if record.objective.metric not in metrics and EVAL_LOSS not in names else []
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in names)


def _clock_text(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
