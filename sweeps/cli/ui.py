"""`qsweep ui [SWEEP]`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Storage, StoreOfSweep, mistakes, say
from sweeps.config.uris import is_web
from sweeps.errors import SweepError

if TYPE_CHECKING:
    from sweeps.tracking.stores import NamedSweep


def ui(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP]", help="A sweep's folder, id or name; all experiments if not given."),
    ] = None,
    storage: Storage = Path("results"),
    tracking_uri: StoreOfSweep = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where the UI listens; 5000, or the next free one, if not given."),
    ] = None,
) -> None:
    """Show a sweep's trials in MLflow's UI: prints the link, and serves it until Ctrl-C ends it with exit code 0."""
    from sweeps.steering.stop import Interrupted, raising_on_signals
    from sweeps.tracking import stores
    from sweeps.tracking.lookup import experiment_of

    try:
        with mistakes(), raising_on_signals():
            named = None if sweep is None else _named(sweep, storage, tracking_uri)
            uri = stores.store(tracking_uri) if named is None else named.uri
            experiment = None if named is None else experiment_of(named)
            if is_web(uri):
                say(_page(uri, experiment))
            else:
                _serve(uri, port, experiment)
    except Interrupted:
        say("ended")


def _named(sweep: str, storage: Path, tracking_uri: str | None) -> NamedSweep:
    """Finds the sweep in the given store; else in the store of its folder in the storage; else in the default store."""
    from sweeps.steering import local_sweeps
    from sweeps.tracking import stores

    # A name without a folder here may be a sweep in MLflow, for example one of another machine.
    if tracking_uri is None:
        with suppress(SweepError):
            sweep = str(local_sweeps.find(sweep, storage).path)
    return stores.find(sweep, tracking_uri)


def _page(server: str, experiment: tuple[str, str] | None) -> str:
    """Returns the address of the page of `experiment`, (experiment id, sweep id); of all experiments for None."""
    from sweeps.report import ui_links

    return ui_links.experiments(server) if experiment is None else ui_links.saved_view(server, *experiment)


def _serve(uri: str, port: int | None, experiment: tuple[str, str] | None) -> None:
    from sweeps.tracking import ui_server

    port = ui_server.free_port(port)
    say(f"starting MLflow's server on {uri}")
    try:
        with ui_server.serving(uri, port) as server:
            say(_page(server.address, experiment))
            if "SSH_CONNECTION" in os.environ:
                say(f"on your own machine first: ssh -N -L {server.port}:{ui_server.LOOPBACK}:{server.port} USER@HOST")
            say("Ctrl-C ends it")
            server.wait_until_it_ends()
    except ui_server.ServerFailed as error:
        for line in error.last_lines:
            say(f"  {line}")
        raise
