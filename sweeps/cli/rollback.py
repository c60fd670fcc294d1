"""`qsweep rollback --model NAME`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sweeps.cli.shared import Json, Store, mistakes


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
