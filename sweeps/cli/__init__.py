"""The command line: `qsweep`, one file per verb. Results go to stdout, all else to stderr.

With --json stdout has one JSON object, and results go to stderr, too.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeps.cli.shared import say
from sweeps.config.passwords import hidden
from sweeps.report import streams

VERBS = (
    "ls", "validate", "plan", "doctor", "launch", "resume", "submit", "refit", "status", "stop", "logs", "compare",
    "ui", "add", "extend", "report", "promote", "rollback", "models", "verify", "export", "check-serving", "schema",
)  # fmt: skip
"""The commands, as the help lists them. Each is a function of its own module."""


class _Commands(Mapping[str, Any]):
    """Name -> command. A command is loaded when it is asked for, so that no call waits for the imports of others."""

    def __getitem__(self, name: str) -> Any:
        if name not in VERBS:
            raise KeyError(name)
        verb = name.replace("-", "_")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command()(getattr(importlib.import_module(f"{__name__}.{verb}"), verb))
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class _Group(typer.core.TyperGroup):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Commands()  # type: ignore[assignment]


app = typer.Typer(
    name="qsweep",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"qsweep {version('qlora-sweeps')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hyperparameter sweeps for LoRA and QLoRA fine-tuning on Ray Tune and MLflow."""


def main() -> None:
    """Runs the command line."""
    streams.quiet_standard_streams()
    # The user's trainable may lie in the current folder. This folder comes last, so that it shadows no other module.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except Exception:
        # The traceback without passwords: errors of libraries name the URIs that they were given.
        say(hidden(traceback.format_exc()).rstrip())
        raise SystemExit(1) from None
