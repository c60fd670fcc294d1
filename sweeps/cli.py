"""The command line: `qsweep`. People read stderr; with --json the last line of stdout is one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.errors import ClusterError
from search_spaces.errors import SpaceError
from sweeps.errors import ConfigError, SweepError
from trainables.errors import TrainableError

app = typer.Typer(
    name="qsweep",
    help="Hyperparameter sweeps for LoRA and QLoRA fine-tuning on Ray Tune and MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A sweep file (YAML), or the name of a recipe (see `qsweep ls`).")
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides: dotted.key=YAML value, for example budget.trials=4."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def say(line: str = "") -> None:
    """Prints a line for people."""
    print(line, file=sys.stderr)


@contextmanager
def mistakes() -> Iterator[None]:
    """A user's mistake ends the command with its message and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        count = len(error.problems)
        for problem in error.problems:
            say(f"error: {problem}")
        say(f"{count} {'problem' if count == 1 else 'problems'}; nothing was started")
        raise typer.Exit(2) from None
    except (SweepError, ClusterError, TrainableError, SpaceError) as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None


def _show_version(asked: bool) -> None:
    if asked:
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


@app.command()
def ls() -> None:
    """List recipes, search spaces, trainables, schedulers and searchers."""
    import search_spaces
    from sweeps import components, load
    from trainables import registry

    groups = {
        "recipes": load.recipes(),
        "search spaces": search_spaces.available(),
        "trainables": registry.available(),
        "schedulers": components.available("schedulers"),
        "searchers": components.available("searchers"),
    }
    for title, members in groups.items():
        print(title)
        for name, line in members.items():
            print(f"  {name:20} {line}")


@app.command()
def validate(file: File, changes: Changes = None) -> None:
    """Check a sweep file, and the local files it names, without starting anything."""
    with mistakes():
        sweep = _load(file, changes)
        say(f"{file}: valid ({sweep.config.name}, {len(sweep.space.domains)} searched fields)")


@app.command()
def plan(file: File, changes: Changes = None, as_json: Json = False) -> None:
    """Show what a sweep will do and cost, without starting anything."""
    from sweeps import preflight

    with mistakes():
        planned = preflight.plan_here(_load(file, changes))
    _show_plan(planned)
    if as_json:
        print(json.dumps(planned.as_json()))


@app.command()
def launch(file: File, changes: Changes = None, as_json: Json = False) -> None:
    """Run a sweep."""
    import time

    from sweeps import launch as launching
    from sweeps import preflight, summary

    started = time.time()
    with mistakes():
        sweep = _load(file, changes)
        planned = preflight.plan_here(sweep)
        _show_plan(planned)

        result = launching.launch(sweep, summary.displays(started, planned.expected_steps, planned.trials))
    _finish(sweep, result, as_json)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The sweep's folder.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send everything to this MLflow from now on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was interrupted or lost its driver; send what MLflow has not taken."""
    import time

    from sweeps import launch as launching
    from sweeps import summary

    started = time.time()
    with mistakes():
        sweep, result = launching.resume(folder.resolve(), summary.displays(started), tracking_uri)
    _finish(sweep, result, as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the sweep file, for editors."""
    from sweeps.config import SweepConfig

    print(json.dumps(SweepConfig.model_json_schema(), indent=2))


def _load(file: str, changes: list[str] | None) -> Any:
    from sweeps import load

    return load.load(file, changes or [], Path.cwd())


def _finish(sweep: Any, result: Any, as_json: bool) -> None:
    from sweeps import summary

    summary.show(sweep, result)
    if as_json:
        print(json.dumps(result.as_json()))
    raise typer.Exit(result.exit_code)


def _show_plan(planned: Any) -> None:
    from sweeps import summary

    for line in summary.plan_lines(planned):
        say(line)


def main() -> None:
    """The console script."""
    # A trainable of your own may lie in the current folder. At the end of the path, so that it shadows nothing.
    sys.path.append(str(Path.cwd()))
    app()


if __name__ == "__main__":
    main()
