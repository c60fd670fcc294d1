"""What the commands share: options, and the messages of mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_spaces import SpaceError
from sweeps.config.passwords import hidden
from sweeps.errors import ConfigError
from sweeps.report import streams
from trainables.errors import QsweepError
from trainables.inputs.legible import legible

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep
    from sweeps.record.folder import SweepFolder

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A sweep file (YAML), or the name of a recipe (see `qsweep ls`).")
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides: dotted.key=YAML value, for example budget.trials=4."),
]
Promoting = Annotated[
    bool, typer.Option("--promote", help="Promote the best adapter at the end, as the file's promotion section says.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Start also where MLflow does not answer: it is sent all later.")
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Run it as a process of its own, and say how to follow and stop it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Price = Annotated[float | None, typer.Option("--price", help="What a GPU-hour costs, such as 2.5: the sum is told.")]
NoFiles = Annotated[bool, typer.Option("--no-files", help="Send no data and no model: their paths are the cluster's.")]


def not_empty(option: typer.CallbackParam, value: str | None) -> str | None:
    """Refuses an empty option, such as `--to "$VERSION"` if the shell's variable is not set."""
    if value is not None and not value.strip():
        say(f"error: {option.opts[0]}: is empty: give it a value, or leave it out")
        raise typer.Exit(2)
    return value


Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="The registered model.")]


def _store(first: str = "") -> Any:
    text = f"The MLflow store; if not given, {first}MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."
    return typer.Option("--tracking-uri", metavar="URI", callback=not_empty, help=text)


Store = Annotated[str | None, _store()]
StoreOfSweep = Annotated[str | None, _store("that of the sweep's folder, else ")]
LocalSweep = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep's folder, its id, or its name (the newest of it).")
]
Storage = Annotated[
    Path, typer.Option("--storage", metavar="DIR", help="The folder in which an id or a name is looked for.")
]
MOST_MISTAKES = 50
"""Most mistakes that are shown."""


def say(line: str = "") -> None:
    """Prints a line for people."""
    print(streams.fitted(line, sys.stderr), file=sys.stderr)


def print_result(line: str, as_json: bool = False) -> None:
    """Prints a line of what was asked for: on stdout, or on stderr if stdout has the JSON line alone."""
    stream = sys.stderr if as_json else sys.stdout
    print(streams.fitted(line, stream), file=stream)


@contextmanager
def mistakes(untouched: str = "nothing was started") -> Iterator[None]:
    """Turns a user's mistake into its message and exit code 2; any other error keeps its traceback.

    A failure of a cluster or of MLflow that no mistake has caused gives exit code 1.

    Args:
        untouched: says, after the messages, what the mistakes have not changed.
    """
    try:
        yield
    except ConfigError as error:
        count = len(error.problems)
        for problem in error.problems[:MOST_MISTAKES]:
            say(f"error: {legible(hidden(problem))}")
        if count > MOST_MISTAKES:
            say(f"and {count - MOST_MISTAKES} more")
        say(f"{count} {'problem' if count == 1 else 'problems'}{f'; {untouched}' if untouched else ''}")
        raise typer.Exit(2) from None
    except (QsweepError, SpaceError) as error:
        say(f"error: {legible(hidden(str(error)))}")
        raise typer.Exit(getattr(error, "exit_code", 2)) from None


@contextmanager
def ending_on_signals(*lines: str) -> Iterator[None]:
    """Ends the command on Ctrl-C, SIGTERM and SIGHUP: prints the lines, and exits with the code of the signal."""
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with raising_on_signals():
            yield
    except Interrupted as interrupted:
        for line in lines:
            say(line)
        raise typer.Exit(interrupted.exit_code) from None


def find_sweep(sweep: str, storage: Path, has_address: bool = True) -> SweepFolder:
    """Finds a sweep as `local_sweeps.find` does, and names the others if several have the name."""
    from sweeps.steering import local_sweeps

    found = local_sweeps.find(sweep, storage, has_address)
    if (line := local_sweeps.of_one_name(sweep, storage, found)) is not None:
        say(line)
    return found


def load_sweep(file: str, changes: list[str] | None) -> LoadedSweep:
    """Loads and checks the sweep of a file and its overrides; raises ConfigError with a message for each mistake."""
    from sweeps.config import load

    return load.load(file, as_words(changes), Path.cwd())


def as_words(changes: list[str] | None) -> list[str]:
    """Returns the overrides of the command line. The shell's bytes are read as UTF-8, whatever the locale."""
    return [os.fsencode(change).decode("utf-8", "surrogateescape") for change in changes or []]
