"""Finds the page of MLflow's UI that shows a sweep's trials: asks the server over HTTP, without its client."""

from __future__ import annotations

from sweeps.config.passwords import without_password
from sweeps.errors import Failed, SweepError
from sweeps.record.folder import SweepFolder, noted_by
from sweeps.report import ui_links
from sweeps.tracking import stores
from sweeps.tracking.run_tags import SWEEP_ID
from sweeps.tracking.stores import Place

_SECONDS = 30.0
"""How long an answer may take: the first one of a server that has just begun takes seconds on a busy machine."""


def address(server: str, place: Place) -> str:
    """The page of a sweep on a server that answers: the view that it saved, or its runs where it saved none.

    Raises:
        SweepError: the server does not hold the sweep, or does not tell without a password.
        Failed: it cannot be asked.
    """
    try:
        run = stores.run_on_server(server, place.sweep, _SECONDS)
        if run is None:
            raise SweepError(f"{place.sweep}: no sweep of this id or name in {place.shown}; {stores.BY_OPTION}")
        experiment, run_id = str(run["info"]["experiment_id"]), str(run["info"]["run_id"])
        (sweep_id,) = (str(tag["value"]) for tag in run["data"]["tags"] if tag["key"] == SWEEP_ID)
        if stores.has_view(server, experiment, sweep_id, _SECONDS):
            return ui_links.saved_view(server, experiment, sweep_id)
        return ui_links.runs_below(server, experiment, run_id)
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{without_password(server)}: does not tell where the sweep {place.sweep} is: {stores.reason(error)}"
        # A server may ask for a token, which a browser has.
        if getattr(getattr(error, "response", None), "status_code", None) not in (401, 403):
            raise Failed(told) from None
        noted = _noted(place)
        if noted is None:
            raise SweepError(f"{told}; name the sweep's folder") from None
        return ui_links.saved_view(server, noted, place.sweep)


def _noted(place: Place) -> str | None:
    """The sweep's experiment in this store, as its folder notes it."""
    note = {} if place.folder is None else noted_by(SweepFolder(place.folder))
    is_of_store = without_password(str(note.get("uri", ""))) == place.shown
    return str(note["experiment_id"]) if is_of_store and note.get("experiment_id") is not None else None
