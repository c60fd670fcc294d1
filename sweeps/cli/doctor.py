"""`qsweep doctor [FILE]`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Changes, Json, load_sweep, mistakes, say
from sweeps.config import environment
from sweeps.config.passwords import without_passwords
from sweeps.errors import ConfigError
from trainables.inputs.legible import legible

if TYPE_CHECKING:
    from cluster.doctor.contract import Asked, Finding
    from sweeps.config.load import Sweep

OptionalFile = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="A sweep file (YAML), or the name of a recipe: what is to run.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="A", help="A Ray cluster to look at: auto (the one of this node), or HOST:PORT."),
]


def doctor(file: OptionalFile = None, changes: Changes = None, address: Address = None, as_json: Json = False) -> None:
    """Look for what would keep a sweep from running, here or on each node of a cluster, and say what to do."""
    from cluster.doctor import contract
    from sweeps.steering.stop import Interrupted, raising_on_signals

    with mistakes(""):
        if address is not None:
            _check_address(address)
        patience = environment.number("QSWEEP_DOCTOR_PATIENCE", 1.0, 0.1, 100.0)
        asked = contract.Asked() if file is None else _asked(load_sweep(file, changes), address)
        asked = asked.model_copy(update={"patience": patience})
    found: list[dict[str, str]] = []
    try:
        with raising_on_signals(), closing(_examine(asked, address)) as findings:
            for finding in findings:
                found.append({name: legible(without_passwords(text)) for name, text in asdict(finding).items()})
                say(_line(found[-1], max(map(len, contract.names()))))
    except Interrupted as interrupted:
        say("interrupted: what was looked at is above")
        raise typer.Exit(interrupted.exit_code) from None
    left_out = contract.left_out() if file is None else ()
    if left_out:
        say(f"not looked at without a sweep file: {', '.join(left_out)}")
    counts = Counter(each["state"] for each in found)
    say(", ".join(f"{counts[state]} {state}" for state in ("ok", "warn", "fail", "unknown")))
    if as_json:
        print(json.dumps({"ok": not counts["fail"], "findings": found, "not_looked_at": left_out}))
    raise typer.Exit(1 if counts["fail"] else 0)


def _examine(asked: Asked, address: str | None) -> Generator[Finding]:
    from cluster.doctor import examine

    return examine.this_machine(asked) if address is None else examine.a_cluster(asked, address)


def _line(found: dict[str, str], width: int) -> str:
    mend = f" -> {found['mend']}" if found["mend"] else ""
    return f"{found['state']:<7}  {found['check']:<{width}}  {found['node']}: {found['seen']}{mend}"


def _check_address(address: str) -> None:
    """Raises ConfigError for what is not the address of a head service."""
    if address == "auto" or re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", address):
        return
    rule = "must be auto, or HOST:PORT of the cluster's head service (6379 unless `ray start` was given another port)"
    why = "; ray:// is another protocol, and http:// that of Ray's jobs" if "://" in address else ""
    raise ConfigError([f"--address: {legible(repr(without_passwords(address)))} {rule}{why}"])


def _asked(sweep: Sweep, address: str | None) -> Asked:
    """What the checks need to know of a sweep, as plain values."""
    from dataclasses import replace

    from cluster.doctor.contract import Asked
    from sweeps.config.model import size_bytes
    from sweeps.config.uris import work_folder
    from sweeps.planning import auto_trials, host_memory, this_machine

    config = sweep.config
    place = config.cluster.address or "local"
    if address is None and place != "local":
        say(f"note: the file's sweep runs on a Ray cluster (cluster.address: {place}): look there with --address")
    cluster = config.cluster.model_copy(update={"address": address or "local"})
    sweep = replace(sweep, config=config.model_copy(update={"cluster": cluster}))
    if config.budget.trials == "auto":
        sweep = auto_trials.with_some(sweep)
    planned = this_machine.plan_here(sweep, to_launch=True)
    return Asked(
        base=config.base,
        storage=config.storage,
        work_folder=str(work_folder(config.storage)),
        tracking_uri=config.tracking.uri,
        uses_gpus=config.cluster.gpus_per_host != 0,
        environment=dict(config.cluster.runtime_env.env_vars),
        needed_bytes=host_memory.with_one_slot(sweep),
        planned_bytes={} if planned.memory_bytes is None else {planned.device: planned.memory_bytes},
        cpu_hosts=planned.hosts if address is None and planned.device == "cpu" else 1,
        disk_bytes=planned.disk_bytes,
        disk_budget=None if config.budget.disk is None else size_bytes(config.budget.disk),
    )
