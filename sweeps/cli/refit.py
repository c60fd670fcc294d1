"""`qsweep refit SWEEP [TRIAL]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.launch import Asked, run
from sweeps.cli.plan import show_plan
from sweeps.cli.shared import Detach, Json, LocalSweep, Offline, Price, Promoting, Storage, find_sweep, mistakes

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep


def refit(  # noqa: PLR0913 - its options
    sweep: LocalSweep,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="Not the best trial, but this one: a key, or t03.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Its optimizer steps; scheduler.reduction_factor times those of the trial if left out."
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of --steps: times that it sees all rows.")] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Train on the rows held out too, and evaluate on data.test alone.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what it will do and cost; start nothing.")] = False,
    price: Price = None,
    promote: Promoting = False,
    offline: Offline = False,
    detach: Detach = False,
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """Train the best trial of a sweep anew, for longer: one trial with its settings, in a sweep folder of its own."""

    def made() -> LoadedSweep:
        import time

        from sweeps import launch as launching

        length = {"steps_per_trial": steps, "epochs_per_trial": epochs}
        return launching.refit(find_sweep(sweep, storage), trial, length, all_rows, time.time())

    if plan:
        with mistakes(""):
            found = made()
        show_plan(found, price, as_json)
        return
    run(made, [*sys.argv[1:], "--plan"], Asked(promote, offline, detach, as_json))
