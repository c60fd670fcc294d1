"""The command line: `qsweep`. People read stderr; with --json the last line of stdout is one JSON object."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.errors import ClusterError
from search_spaces.errors import SpaceError
from sweeps.config.passwords import without_passwords
from sweeps.errors import ConfigError, SweepError
from sweeps.report import streams
from trainables.errors import TrainableError
from trainables.inputs.legible import legible

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
Promoting = Annotated[
    bool, typer.Option("--promote", help="Promote the best adapter at the end, as the file's promotion section says.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
MOST_PROBLEMS = 50
ALIAS_IS_WHOLE = "the alias is where it was, or moved whole"


def say(line: str = "") -> None:
    """Prints a line for people."""
    print(line, file=sys.stderr)


@contextmanager
def mistakes(untouched: str = "nothing was started") -> Iterator[None]:
    """A user's mistake ends the command with its message and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        count = len(error.problems)
        for problem in error.problems[:MOST_PROBLEMS]:
            say(f"error: {legible(without_passwords(problem))}")
        if count > MOST_PROBLEMS:
            say(f"and {count - MOST_PROBLEMS} more")
        say(f"{count} {'problem' if count == 1 else 'problems'}{f'; {untouched}' if untouched else ''}")
        raise typer.Exit(2) from None
    except (SweepError, ClusterError, TrainableError, SpaceError) as error:
        say(f"error: {legible(without_passwords(str(error)))}")
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
    from sweeps.config import components, load
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
        for warning in sweep.preview.warnings:
            say(f"warning: {warning}")


@app.command()
def plan(file: File, changes: Changes = None, as_json: Json = False) -> None:
    """Show what a sweep will do and cost, without starting anything."""
    from sweeps.planning import this_machine

    with mistakes():
        planned = this_machine.plan_here(_load(file, changes))
    _show_plan(planned)
    if as_json:
        print(json.dumps(planned.as_json()))


@app.command()
def launch(file: File, changes: Changes = None, promote: Promoting = False, as_json: Json = False) -> None:
    """Run a sweep."""
    import time

    from sweeps import launch as launching
    from sweeps.planning import this_machine
    from sweeps.report import summary

    started = time.time()
    with mistakes():
        sweep = _load(file, changes)
        _check_promotion(sweep, promote)
        for line in this_machine.look_up(sweep):
            say(f"warning: {line}")
        planned = this_machine.plan_here(sweep, to_launch=True)
        _show_plan(planned)
    with mistakes("no trial was started"):
        result = launching.launch(sweep, summary.displays(started, planned.expected_steps, planned.trials))
    _finish(sweep, result, promote, as_json)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The sweep's folder.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send everything to this MLflow from now on.")
    ] = None,
    promote: Promoting = False,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was interrupted or lost its driver; send what MLflow has not taken."""
    import time

    from sweeps import launch as launching
    from sweeps import saved_sweep
    from sweeps.record.folder import SweepFolder
    from sweeps.report import summary

    started = time.time()
    with mistakes():
        if promote:
            _check_promotion(saved_sweep.load(SweepFolder(folder.resolve()), tracking_uri)[0], promote)
        sweep, result = launching.resume(folder.resolve(), summary.displays(started), tracking_uri)
    _finish(sweep, result, promote, as_json)


Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="The registered model.")]
Store = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="The MLflow store; the sweep folder's, or MLFLOW_TRACKING_URI, if not given.",
    ),
]


@app.command()
def promote(  # noqa: PLR0913 - its options
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id, name (the newest of it) or folder.")],
    model: Model = None,
    top: Annotated[int | None, typer.Option(help="Candidates that are evaluated again; 3 if not given.")] = None,
    alias: Annotated[str | None, typer.Option(help="The alias that moves; champion if not given.")] = None,
    min_gain: Annotated[float | None, typer.Option(help="How much lower the loss must be; 0 if not given.")] = None,
    metric: Annotated[str | None, typer.Option(help="What ranks the candidates; eval_loss if not given.")] = None,
    eval_data: Annotated[Path | None, typer.Option(help="Rows that decide; data.test if not given.")] = None,
    trial: Annotated[str | None, typer.Option(metavar="KEY", help="The only candidate: a key, or t03.")] = None,
    tracking_uri: Store = None,
    address: Annotated[str | None, typer.Option(help="Evaluate on this Ray cluster; auto: the one here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but write.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Promote in spite of its state, another base or changed content, but not of the gate."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a sweep's best adapters again and make the best the champion, if it is better."""
    from sweeps.cli import promotion
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with mistakes(), raising_on_signals():
            asked = promotion.asked(
                sweep,
                {"model": model, "top": top, "alias": alias, "min_gain": min_gain, "metric": metric},
                eval_data=eval_data, trial=trial, tracking_uri=tracking_uri, address=address, dry_run=dry_run,
                force=force,
            )  # fmt: skip
            outcome = promotion.promote(asked)
    except Interrupted as interrupted:
        say(f"interrupted: {ALIAS_IS_WHOLE}; the same command does what is left")
        raise typer.Exit(interrupted.exit_code) from None
    if as_json:
        print(json.dumps(outcome.as_json()))
    raise typer.Exit(outcome.exit_code)


@app.command()
def rollback(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The registered model.")],
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="The version to go back to.")] = None,
    alias: Annotated[str, typer.Option(help="The alias that moves.")] = "champion",
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """Move a model's alias back to the version before."""
    with mistakes():
        from sweeps.cli import promotion

        done = promotion.roll_back(model, to, alias, tracking_uri)
    if as_json:
        print(json.dumps(done.as_json()))


@app.command()
def models(model: Model = None, tracking_uri: Store = None, as_json: Json = False) -> None:
    """List promoted models, or one with the history of its promotions."""
    with mistakes():
        from sweeps.cli import promotion

        found = promotion.show_models(model, tracking_uri)
    if as_json:
        print(json.dumps(found))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the sweep file, for editors."""
    from sweeps.config.model import SweepConfig

    print(json.dumps(SweepConfig.model_json_schema(), indent=2))


def _load(file: str, changes: list[str] | None) -> Any:
    from sweeps.config import load

    # What the shell gave, as UTF-8 whatever the locale.
    words = [os.fsencode(change).decode("utf-8", "surrogateescape") for change in changes or []]
    return load.load(file, words, Path.cwd())


def _check_promotion(sweep: Any, promote: bool) -> None:
    if promote:
        from sweeps.cli import promotion

        promotion.check(sweep.config)


def _finish(sweep: Any, result: Any, promote: bool, as_json: bool) -> None:
    from sweeps.report import summary

    summary.show(sweep, result)
    code, document = result.exit_code, result.as_json()
    if promote and code == 0:
        code, promotion = _promote_result(sweep, result)
        document |= promotion
    elif promote:
        say(f"not promoted: the sweep did not end well (exit code {code})")
    if as_json:
        print(json.dumps(document), flush=True)
    if result.is_ray_left_behind:
        from cluster.ray_files import remove_all

        remove_all()
        streams.end_at_once(code)
    raise typer.Exit(code)


def _promote_result(sweep: Any, result: Any) -> tuple[int, dict[str, Any]]:
    """The exit code of the promotion of a sweep that has just ended, and what --json says of it."""
    from sweeps.cli import promotion
    from sweeps.steering.stop import Interrupted, raising_on_signals

    say()
    try:
        with mistakes(""), raising_on_signals():
            outcome = promotion.promote(promotion.asked(str(result.folder), {}, tracking_uri=sweep.config.tracking.uri))
    except Interrupted as interrupted:
        say(f"interrupted: {ALIAS_IS_WHOLE}; qsweep promote {result.folder} does what is left")
        return interrupted.exit_code, {"promotion": None, "not_promoted": "interrupted"}
    except typer.Exit as end:
        return end.exit_code, {"promotion": None, "not_promoted": "failed"}
    return outcome.exit_code, {"promotion": outcome.as_json()}


def _show_plan(planned: Any) -> None:
    from sweeps.report import summary

    for line in summary.plan_lines(planned):
        say(line)


def main() -> None:
    """The console script."""
    streams.make_heedless()
    # A trainable of your own may lie in the current folder. At the end of the path, so that it shadows nothing.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except Exception:
        # As Python would show it, but for passwords: errors of libraries name the URIs that they were given.
        say(without_passwords(traceback.format_exc()).rstrip())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
