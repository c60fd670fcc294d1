"""`qsweep check-serving URL --model NAME`."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from sweeps.cli.shared import Json, Store, mistakes, not_empty


def check_serving(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://HOST:PORT.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME[@ALIAS]", help="What it is to serve.")],
    served_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=not_empty, help="The adapter's name there; NAME-vVERSION if not given."),
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable with the server's API key.")
    ] = "OPENAI_API_KEY",
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """Check that a running server answers as the promoted adapter does."""
    from sweeps.report.summary import console
    from sweeps.tracking import stores

    with mistakes(""):
        stores.store(tracking_uri)  # Before the next import, which takes seconds.
        from sweeps.promotion.check_serving import check_server
        from sweeps.promotion.openai_client import Server

        server = Server(url, os.environ.get(api_key_env))
        found = check_server(model, server, served_name, tracking_uri)
    console(as_json).print(found.in_words, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(found.as_json()))
    raise typer.Exit(found.exit_code)
