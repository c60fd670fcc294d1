"""`qsweep models`."""

from __future__ import annotations

import json

from sweeps.cli.shared import Json, Model, Store, mistakes


def models(model: Model = None, tracking_uri: Store = None, as_json: Json = False) -> None:
    """List promoted models, or one with the history of its promotions."""
    with mistakes():
        from sweeps.cli import promotion

        shown = promotion.show_models(model, tracking_uri)
    if as_json:
        print(json.dumps(shown))
