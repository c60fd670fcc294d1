"""`qsweep export NAME --format FORM --out DIR`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeps.cli.shared import Json, Store, ending_on_signals, mistakes
from sweeps.errors import SweepError
from trainables.scoring import Form


def export(  # noqa: PLR0913 - each argument is an option
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS]", help="The registered model; its champion.")],
    form: Annotated[
        Literal["peft", "merged", "gguf"],
        typer.Option("--format", help="The PEFT folder; base and adapter in 16 bits; llama.cpp's adapter."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write, which is not there yet.")],
    base: Annotated[
        Literal["trained", "plain"],
        typer.Option(
            help="For a merged model: the base's weights in training, dequantised; or the base without quantisation."
        ),
    ] = "trained",
    merged: Annotated[bool, typer.Option("--merged", help="With gguf: base and adapter as one model.")] = False,
    tracking_uri: Store = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep it, though it scores otherwise than what was promoted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a promoted version for servers, and score what was written."""
    from sweeps.report.summary import console
    from sweeps.tracking import stores

    with ending_on_signals("interrupted: nothing was kept"), mistakes("nothing was kept"):
        if merged and form == "peft":
            raise SweepError("--merged: a PEFT folder holds the adapter alone: leave it out, or give --format merged")
        stores.store(tracking_uri)  # Before the next import, which takes seconds.
        from sweeps.promotion.export import export as write

        chosen: Form = "gguf-merged" if merged and form == "gguf" else form
        found = write(model, chosen, out, force, tracking_uri, on_plain=base == "plain")
    console(as_json).print(f"{found.in_words}: {found.folder}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(found.as_json()))
