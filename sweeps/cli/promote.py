"""`qsweep promote SWEEP`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.shared import Json, Model, StoreOfSweep, ending_on_signals, mistakes
from sweeps.errors import ConfigError, SweepError

if TYPE_CHECKING:
    from sweeps.promotion.registration import PromotionResult
    from sweeps.promotion.request import PromotionRequest

ALIAS_IS_WHOLE = "the alias is where it was, or moved whole"


def promote(  # noqa: PLR0913 - its options
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id, name (the newest of it) or folder.")],
    model: Model = None,
    top: Annotated[int | None, typer.Option(help="Candidates that are evaluated again; 3 if not given.")] = None,
    alias: Annotated[str | None, typer.Option(help="The alias that moves; champion if not given.")] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="How much better the metric must be, in its unit; 0 if not given.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What ranks and decides; the sweep's objective if not given.")
    ] = None,
    eval_data: Annotated[Path | None, typer.Option(help="Rows that decide; data.test if not given.")] = None,
    trial: Annotated[str | None, typer.Option(metavar="KEY", help="The only candidate: a key, or t03.")] = None,
    tracking_uri: StoreOfSweep = None,
    address: Annotated[str | None, typer.Option(help="Evaluate on this Ray cluster; auto: the one here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but write.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Promote in spite of its state, another base, changed content or a rollback, but not of the gate.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a sweep's best adapters again and make the best the champion, if it is better."""
    with ending_on_signals(f"interrupted: {ALIAS_IS_WHOLE}; the same command does what is left"), mistakes():
        request = request_of(
            sweep,
            {"model": model, "top": top, "alias": alias, "min_gain": min_gain, "metric": metric},
            eval_data=eval_data, trial=trial, tracking_uri=tracking_uri, address=address, dry_run=dry_run,
            force=force,
        )  # fmt: skip
        outcome = show_promotion(request, as_json)
    if as_json:
        print(json.dumps(outcome.as_json()))
    raise typer.Exit(outcome.exit_code)


def request_of(sweep: str, policy: Mapping[str, object], **options: Any) -> PromotionRequest:
    """Returns the promotion that the command line asks for.

    Args:
        policy: the fields of the sweep's promotion section that the command line sets; None for the others.
        options: the other options by name.

    Raises:
        SweepError: the sweep, its store or the rows are missing, or the address is a dashboard's. This is checked
            before MLflow is imported, which takes seconds.
    """
    from sweeps.tracking import stores
    from trainables.inputs import paths

    if "://" in str(options.get("address")):
        raise ConfigError(
            [
                "--address: must be auto or HOST:PORT of a cluster's head service: promote runs where the sweep's "
                f"folder is, on the head node of the cluster, as qsweep promote {sweep} --address auto"
            ]
        )
    rows = options.get("eval_data")
    if rows is not None and not paths.is_file(rows):
        raise ConfigError([f"--eval-data: {rows.absolute()} is not a file"])
    try:
        place = stores.find(sweep, options.pop("tracking_uri"))
    except SweepError as error:
        if policy.get("model") is None:
            missing = (
                "--model: is needed, the name of the registered model, unless the sweep's file has promotion.model"
            )
            raise ConfigError([missing, str(error)]) from None
        raise
    from sweeps.promotion.request import PromotionRequest

    return PromotionRequest(place, policy, **options)


def show_promotion(request: PromotionRequest, as_json: bool = False) -> PromotionResult:
    """Promotes. Prints the gate as a table and the outcome; and steps and progress of evaluations, on stderr."""
    import time

    from sweeps.promotion import cards, expected_time
    from sweeps.promotion import promote as promoting
    from sweeps.report.passing_line import PassingLine
    from sweeps.report.summary import console, tell

    out = console(as_json)
    passing = PassingLine(console(), time.monotonic)

    def show(verdict: Any) -> None:
        passing.end()
        out.print()
        out.print(cards.table(verdict))
        out.print()

    try:
        outcome = promoting.promote(
            request, passing.say, show, tell=lambda progress: passing.show(expected_time.so_far(progress))
        )
    finally:
        passing.end()
    tell(out, [f"not promoted: {reason}" for reason in outcome.reasons] or [f"{outcome.model}: {outcome.ending}"])
    return outcome
