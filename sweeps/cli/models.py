"""`qsweep models`."""

from __future__ import annotations

import json
from typing import Any

from sweeps.cli.shared import Json, Model, Store, mistakes


def models(model: Model = None, tracking_uri: Store = None, as_json: Json = False) -> None:
    """List promoted models, or one with the history of its promotions."""
    with mistakes():
        shown = show_models(model, tracking_uri, as_json)
    if as_json:
        print(json.dumps({"models": shown}))


def show_models(model: str | None, tracking_uri: str | None, as_json: bool = False) -> list[dict[str, Any]]:
    """Prints the models, and the history of a named model; returns the models as JSON data."""
    from sweeps.report.summary import console
    from sweeps.tracking import stores

    stores.store(tracking_uri)  # Before the next import, which takes seconds.
    from sweeps.promotion import versions

    out = console(as_json)
    promoted = versions.models(model, tracking_uri)
    if promoted:
        out.print(versions.table_of_models(promoted))
    else:
        out.print("no promoted models", markup=False)
    if model is not None:
        out.print()
        moved = promoted[0][0]
        if moved.history:
            out.print(versions.table_of_moves(moved))
        else:
            out.print("its history is empty: no alias move is written down")
    return [versions.as_json(each) for each, _ in promoted]
