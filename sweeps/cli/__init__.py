"""The command line: `qsweep`, one file per verb. People read stderr; --json prints one JSON object on stdout."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli import (
    add,
    check_serving,
    compare,
    doctor,
    export,
    extend,
    launch,
    logs,
    ls,
    models,
    plan,
    promote,
    report,
    resume,
    rollback,
    schema,
    status,
    stop,
    submit,
    ui,
    validate,
    verify,
)
from sweeps.cli.shared import say
from sweeps.config.passwords import without_passwords
from sweeps.report import streams

app = typer.Typer(
    name="qsweep",
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


# The help lists the commands in this order.
app.command()(ls.ls)
app.command()(validate.validate)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(launch.launch)
app.command()(resume.resume)
app.command()(submit.submit)
app.command()(status.status)
app.command()(stop.stop)
app.command()(logs.logs)
app.command()(compare.compare)
app.command()(ui.ui)
app.command()(add.add)
app.command()(extend.extend)
app.command()(report.report)
app.command()(promote.promote)
app.command()(rollback.rollback)
app.command()(models.models)
app.command()(verify.verify)
app.command()(export.export)
app.command()(check_serving.check_serving)
app.command()(schema.schema)


def main() -> None:
    """Runs the command line."""
    streams.quiet_standard_streams()
    # The user's trainable may lie in the current folder. This folder comes last, so that it shadows no other module.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except Exception:
        # The traceback without passwords: errors of libraries name the URIs that they were given.
        say(without_passwords(traceback.format_exc()).rstrip())
        raise SystemExit(1) from None
