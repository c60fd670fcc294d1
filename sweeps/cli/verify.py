"""`qsweep verify MODEL`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sweeps.cli.shared import Json, Store, mistakes
from trainables.inputs.legible import legible


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@ALIAS]",
            help="A registered model (its champion, if no alias is given), or a folder of files.",
        ),
    ],
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """Check a promoted version by its decision record and its files: adapter, tokenizer, values, verdict."""
    from sweeps.report.summary import console

    with mistakes(""):
        from sweeps.promotion import verify as verifying
        from sweeps.promotion import versions

        found = versions.find(model, tracking_uri)
        record, checks = verifying.checks(found)
    out = console(as_json)
    out.print(f"{found.name}: trial {record.origin.trial_key} of {record.origin.sweep_id}", markup=False)
    for check in checks:
        state = {True: "holds", False: "WRONG", None: "not known"}[check.holds]
        out.print(f"  {state:<10}{check.name}: {legible(check.words)}", markup=False, soft_wrap=True)
    for objection in record.forced:
        out.print(f"  forced    {legible(objection)}", markup=False, soft_wrap=True)
    wrong = [check.name for check in checks if check.holds is False]
    out.print(f"not what was promoted: {', '.join(wrong)}" if wrong else "verified: what can be known here holds")
    if as_json:
        version = None if found.version is None else found.version.number
        told = {"model": record.model, "version": version, "verified": not wrong, "forced": list(record.forced)}
        print(json.dumps(told | {"checks": [vars(check) for check in checks]}))
    raise typer.Exit(1 if wrong else 0)
