"""`qsweep doctor [FILE]`."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sweeps.cli.shared import Changes, Json, NoFiles, ending_on_signals, load_sweep, mistakes, print_result, say
from sweeps.cli.submitted import end_with, ending_if_lost, run
from sweeps.config import environment
from sweeps.config.passwords import hidden, whole
from sweeps.config.uris import is_web
from sweeps.errors import ConfigError
from trainables.inputs.legible import legible

if TYPE_CHECKING:
    from cluster.doctor.contract import Needs
    from sweeps.config.load import LoadedSweep

PATIENCE = "QSWEEP_DOCTOR_PATIENCE"
"""Environment variable with a factor for all time limits."""
DASHBOARD_PORT = ":8265"
"""Default port of Ray's dashboard. The head service has another port."""
INTERRUPTED = "interrupted: only the checks with a line above are done"
OptionalFile = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="A sweep file (YAML), or the name of a recipe: what is to run.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="A",
        help="A Ray cluster to look at: its dashboard, http://HOST:8265; on one of its nodes also auto, or HOST:PORT.",
    ),
]
Train = Annotated[
    bool,
    typer.Option(
        "--train",
        help="Test there each way to compute passes against PEFT's layers, and time those that agree: without FILE for "
        "the quickstart.",
    ),
]


def doctor(
    file: OptionalFile = None,
    changes: Changes = None,
    address: Address = None,
    no_files: NoFiles = False,
    train: Train = False,
    as_json: Json = False,
) -> None:
    """Look for what would keep a sweep from running, here or on each node of a cluster, and say what to do."""
    if train and file is None:
        file = "quickstart"
    if address is not None and is_web(address):
        _from_outside(file, changes, address, no_files, as_json, train)
    from cluster import timeouts
    from cluster.doctor import contract, examine

    with mistakes(""):
        if address is not None:
            _check_address(address)
        patience = environment.number(PATIENCE, 1.0, 0.1, 100.0)
        needs = contract.Needs() if file is None else _needs(load_sweep(file, changes), address)
    patience *= timeouts.DOCTOR_TRAINS_FACTOR if train else 1.0
    site = contract.Site(needs=needs, patience=patience, trains=train)
    if address is not None:
        limits = (timeouts.DOCTOR_LOOK_SECONDS, timeouts.DOCTOR_CONNECT_SECONDS, timeouts.DOCTOR_NODES_SECONDS)
        most = sum(limits) * patience / 60
        say(f"looking at the driver, then at all nodes at once: mostly 1 or 2 minutes, {most:.0f} at most")
    elif train:
        most = timeouts.DOCTOR_LOOK_SECONDS * patience / 60
        how_long = f"about a minute on a GPU, some minutes on a CPU, {most:.0f} minutes at most"
        say(f"testing each way to compute passes on this machine: {how_long}")
    answers = examine.this_machine(site) if address is None else examine.a_cluster(site, address)
    found: list[dict[str, Any]] = []
    with ending_on_signals(INTERRUPTED), closing(answers):
        for answer in answers:
            texts = {name: getattr(answer, name) for name in ("check", "node", "state", "seen", "mend")}
            found.append({name: legible(hidden(text)) for name, text in texts.items()})
            rows = [{name: legible(text) for name, text in row.items()} for row in answer.rows]
            for line in (_line(found[-1], max(map(len, examine.CHECKS))), *_table(rows)):
                print_result(line, as_json)
            found[-1] |= {"rows": rows} if rows else {}
    left_out = examine.NEED_FILE if file is None else ()
    if left_out:
        say(f"not looked at without a sweep file: {', '.join(left_out)}")
    counts = Counter(each["state"] for each in found)
    print_result(", ".join(f"{counts[state]} {state}" for state in ("ok", "warn", "fail", "unknown")), as_json)
    if as_json:
        print(json.dumps({"ok": not counts["fail"], "findings": found, "not_looked_at": left_out}))
    raise typer.Exit(1 if counts["fail"] else 0)


def _from_outside(
    file: str | None, changes: list[str] | None, address: str, no_files: bool, as_json: bool, train: bool
) -> NoReturn:
    """Runs the doctor as a Ray job on the head node of a cluster that this machine is not part of."""
    from cluster.submission import on_node, package
    from cluster.submission.jobs import Job, connect
    from sweeps.cli import sending

    words = ("--address", "auto", "--json", *(["--train"] if train else []))
    contents: dict[str, bytes | Path] = {**package.code()}
    with mistakes(""):
        if file is not None:
            sweep, shipment = sending.check_shipment(file, changes, address, no_files)
            identity, files = package.sweep_files(shipment.text(), shipment.files)
            contents |= {**package.own_module(sweep.config.trainable), **files}
            words = (f"{on_node.SHIPPED}:{identity}", *words)
        patience = {name: value for name, value in os.environ.items() if name == PATIENCE}
        job = Job(f"qsweep-doctor-{secrets.token_hex(4)}", ("doctor", *words), variables=patience)
        jobs = connect(address)
        sending.say_other_version(jobs)
        say("a job on the head node looks at the cluster: it starts in some seconds, on a busy node in a minute")
        with ending_if_lost(INTERRUPTED):
            answer = run(jobs, job, contents, say, is_short=False)
    end_with(answer, as_json)


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    for row in ({name: name for name in names}, *rows) if rows else ():
        yield "    " + "  ".join(f"{row[name]:<{widths[name]}}" for name in names).rstrip()


def _line(found: Mapping[str, str], width: int) -> str:
    mend = f" -> {found['mend']}" if found["mend"] else ""
    return f"{found['state']:<7}  {found['check']:<{width}}  {found['node']}: {found['seen']}{mend}"


def _check_address(address: str) -> None:
    if address == "auto" or re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}", address):
        if address.endswith(DASHBOARD_PORT):
            raise ConfigError(
                [f"--address: {address}: 8265 is the port of the dashboard: did you mean http://{address}?"]
            )
        return
    rule = (
        "must be that of the cluster's dashboard, http://HOST:8265; or, on a node of the cluster, auto, or HOST:PORT "
        "of its head service (6379 unless `ray start` was given another port)"
    )
    why = "; ray:// is another protocol" if address.startswith("ray://") else ""
    raise ConfigError([f"--address: {legible(repr(hidden(address)))} {rule}{why}"])


def _needs(sweep: LoadedSweep, address: str | None) -> Needs:
    from cluster import devices
    from cluster.doctor.contract import Needs
    from sweeps.config.model import size_bytes
    from sweeps.config.uris import work_folder
    from sweeps.planning import auto_trials, this_machine

    config = sweep.config
    place = config.cluster.address or "local"
    if address is None and place != "local":
        say(f"note: the file's sweep runs on a Ray cluster (cluster.address: {place}): look there with --address")
    cluster = config.cluster.model_copy(update={"address": address or "local"})
    if address is None and cluster.spread > devices.gpus():
        # Otherwise the plan would be refused. The memory check says that a host of several GPUs finds no place here.
        cluster = cluster.model_copy(update={"gpus_per_host": "auto"})
    sweep = replace(sweep, config=config.model_copy(update={"cluster": cluster}))
    if config.budget.trials == "auto":
        sweep = auto_trials.with_some(sweep)
    planned = this_machine.plan_here(sweep, to_launch=True)
    return Needs(
        base=config.base,
        storage=config.storage,
        work_folder=str(work_folder(config.storage)),
        tracking_uri=whole(config.tracking.uri),
        environment=dict(config.cluster.runtime_env.env_vars),
        gpus_per_host=0 if config.cluster.gpus_per_host == 0 else config.cluster.spread,
        cpu_hosts=planned.hosts if address is None and planned.device == "cpu" else 1,
        one_slot_bytes=this_machine.with_one_slot(sweep, config.cluster.spread),
        planned_bytes={} if planned.memory_bytes is None else {planned.device: planned.memory_bytes},
        disk_bytes=planned.disk_bytes,
        disk_budget=None if config.budget.disk is None else size_bytes(config.budget.disk),
    )
