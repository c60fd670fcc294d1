"""Prints what people read before and after a sweep: its result on stdout, all else on stderr."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console

from sweeps.config.load import LoadedSweep
from sweeps.config.number_words import counted
from sweeps.config.uris import is_web
from sweeps.record.folder import DRIVER_LOG, SweepFolder
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import answers, best_compared, facts, streams, trial_tables, ui_links
from sweeps.report.live_table import Display, Displayed, Lines, Table
from sweeps.statistics.comparison import Separation
from trainables.errors import QsweepError

if TYPE_CHECKING:
    from sweeps.report.result import Displays, Result


def console(as_json: bool = True) -> Console:
    """Returns a console on stderr; without `as_json` one on stdout, for what a command was asked for.

    With --json stdout has the JSON line alone. A file or a pipe on stdout gets lines of any width.
    """
    if not as_json:
        return Console(highlight=False, width=None if sys.stdout.isatty() else _ANY_WIDTH)
    is_known = sys.stderr.isatty() or "COLUMNS" in os.environ
    return Console(stderr=True, highlight=False, width=None if is_known else 140)


_ANY_WIDTH = 10_000


def _place(folder: Path) -> list[str]:
    return [f"sweep folder: {folder}"]


def displays(
    started: float, trials: int | None = None, first_lines: Callable[[Path], Sequence[str]] = _place
) -> Displays:
    """Returns a maker of displays: a live table in a terminal, lines elsewhere. `first_lines` are printed before."""

    @contextmanager
    def display(folder: SweepFolder) -> Iterator[Display]:
        out = console()
        with _kept(folder.path) as kept:
            for each in (out, *kept):
                tell(each, first_lines(folder.path))
            lines = [Lines(each, started, time.time) for each in kept]
            try:
                if out.is_terminal:
                    with Table(out, time.time, trials) as table:
                        yield Displayed([table, *lines])
                else:
                    yield Displayed([Lines(out, started, time.time), *lines])
            except QsweepError as error:  # the command prints it
                for of_log in lines:
                    of_log.say(f"error: {error}")
                raise

    return display


@contextmanager
def _kept(folder: Path) -> Iterator[list[Console]]:
    """Yields a console on the folder's driver.log; none if this process prints there anyway, or cannot write there."""
    with ExitStack() as stack:
        found = []
        with suppress(OSError):
            log = stack.enter_context((folder / DRIVER_LOG).open("a", buffering=1, encoding="utf-8"))
            is_own = False
            with suppress(OSError, ValueError):  # a stream of a test has no descriptor
                is_own = os.path.sameopenfile(log.fileno(), sys.stderr.fileno())
            quiet = cast(TextIO, streams.QuietStream(log))
            found = [] if is_own else [Console(file=quiet, highlight=False, width=_ANY_WIDTH, color_system=None)]
        yield found


def show(sweep: LoadedSweep, result: Result, as_json: bool = False) -> None:
    """Prints the table of trials and the best trial; and what to do next, on stderr. driver.log keeps all of it."""
    record = result.record
    best, *compared = best_compared.best_lines(record, result.selection, result.separation)
    compared += answers.closing(SweepFolder(result.folder), result.selection.winner)
    lines = [best, *(f"      {line}" for line in compared)]
    taken = facts.taken(record, result.spent.seconds)
    taken = taken if result.failure is None else taken[:-1]  # the next steps begin with the error
    steps = _next_steps(sweep, result)
    with _kept(result.folder) as kept:
        for out, after in ((console(as_json), console()), *((each, each) for each in kept)):
            show_trials(out, record, result.separation)
            tell(out, lines + facts.lines_of(taken))
            tell(after, steps)


def show_trials(out: Console, record: SweepRecord, separation: Separation | None) -> None:
    """Prints the table of trials, if there are any, with its notes."""
    out.print()
    if record.trials:
        out.print(trial_tables.terminal(record, trial_tables.order(record), separation=separation))
        tell(out, [*trial_tables.notes(record), ""])


def tell(out: Console, lines: Sequence[str]) -> None:
    """Prints lines as they are, wrapped at words in a terminal."""
    for line in lines:
        out.print(streams.fitted(line, out.file), markup=False, soft_wrap=True)


def _next_steps(sweep: LoadedSweep, result: Result) -> list[str]:
    uri = sweep.config.tracking.uri
    error = result.failure or (None if result.mirror is None else result.mirror.lost)
    lines = [] if error is None else ["", f"error: {error}"]
    lines += _what_is_left(result, uri)
    kept = best_compared.kept_of_best(result.selection, result.folder, sweep.config.trainable)
    if kept is not None:
        lines += ["", f"{kept[0]}:", f"  {kept[1]}"]
    if result.parent_run is not None:
        way = f"{command('qsweep')} ui {shlex.quote(from_here(result.folder))}"
        if is_web(uri):
            way = ui_links.saved_view(uri, str(result.experiment_id), result.sweep_id)
        lines += ["compare the trials in MLflow:", f"  {way}"]
    return lines


def _what_is_left(result: Result, uri: str) -> list[str]:
    """Says how the sweep goes on, and how MLflow and the mirror get what they lack, if the folder is still there."""
    mirror, again = result.mirror, f"  {command('qsweep')} resume {shlex.quote(str(result.folder))}"
    whole = [f"the whole folder is on {mirror.uri}"] if mirror is not None and mirror.is_whole else []
    if result.is_folder_gone:
        return whole
    lines = []
    if (result.stopped_by is not None or result.failure is not None) and (mirror is None or mirror.lost is None):
        lines += ["go on with:", again]
    elif any(trial.lacking for trial in result.record.trials.values()):
        lines += ["scores are missing; mend what gives them, and score the kept adapters again with:", again]
    if result.are_runs_gone:
        lines += [f"MLflow ({uri}) no longer has runs of the sweep; send all events again with:", f"{again} --resend"]
    elif result.undelivered:
        events = counted(result.undelivered, "event")
        lines += [f"MLflow ({uri}) lacks {events}; send the rest, there or (--tracking-uri URI) elsewhere, with:"]
        lines += [again]
    if mirror is not None and mirror.behind is not None:
        lines += [f"{mirror.uri} lacks {mirror.behind}; send the rest with:", again]
    lines += whole
    if result.refused:
        refused = counted(result.refused, "event")
        lines.append(f"MLflow ({uri}) refused {refused}; {result.folder}/events.jsonl has all events")
    return lines


def command(name: str) -> str:
    """Returns the shortest form of a command of this environment that works from the current folder."""
    path = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(path) else shlex.quote(from_here(path))


def from_here(path: Path) -> str:
    """Returns the path relative to the current folder if it lies there; else as it is."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
