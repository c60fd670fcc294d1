"""`qsweep rollback --model NAME`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sweeps.cli.shared import Json, Store, mistakes, not_empty


def rollback(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The registered model.")],
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", callback=not_empty, help="The version to go back to.")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias that moves.")] = "champion",
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """Move a model's alias back to the version before."""
    from sweeps.report.summary import console
    from sweeps.tracking import stores

    with mistakes():
        stores.store(tracking_uri)  # Before the next import, which takes seconds.
        from sweeps.promotion import versions

        out = console()
        moved = versions.rollback(
            model, to, alias, tracking_uri, say=lambda line: out.print(line, markup=False, soft_wrap=True)
        )
    before = f" (before: version {moved.previous})" if moved.previous is not None else ""
    console(as_json).print(f"{model}: {alias} is version {moved.version}{before}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps({"model": model, "alias": alias, "version": moved.version, "previous": moved.previous}))
