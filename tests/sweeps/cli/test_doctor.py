"""`qsweep doctor` on this machine: lines for people, JSON, exit codes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from pathlib import Path

import mlflow_servers
import pytest
from ray_dashboards import dashboard
from sweep_files import QLORA, TOY, write_rows
from typer.testing import CliRunner, Result

from cluster.doctor import examine
from cluster.doctor.contract import CheckResult, Site
from sweeps.cli import app


def doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


def test_a_failure_is_a_line_with_what_to_do_and_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSWEEP_DOCTOR_PATIENCE", "4")
    uri = f"http://127.0.0.1:{mlflow_servers.free_port()}"
    done = doctor("toy", f"tracking.uri={uri}", "--json")
    assert done.exit_code == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fail")]
    assert line.split()[1] == "mlflow" and f"{uri}: no answer: Connection refused -> start the server" in line
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["ok"], answer["not_looked_at"]) == (False, [])
    states = {found["check"]: found["state"] for found in answer["findings"]}
    expected = dict.fromkeys(("bitsandbytes", "model_and_data", "storage", "versions"), "ok") | {"mlflow": "fail"}
    assert expected.items() <= states.items()
    assert "clock" not in states
    assert list(tmp_path.iterdir()) == []


class Looks:
    """What the doctor finds, and was asked; nothing is looked at."""

    def __init__(self) -> None:
        self.findings: list[CheckResult] = []
        self.asked: list[Site] = []

    def __call__(self, site: Site) -> Generator[CheckResult]:
        self.asked.append(site)
        yield from self.findings


@pytest.fixture
def looks(monkeypatch):
    made = Looks()
    monkeypatch.setattr(examine, "this_machine", made)
    return made


def test_warnings_and_what_is_unknown_are_no_failures_and_passwords_are_not_shown(looks):
    looks.findings = [
        CheckResult("warn", "2 GB", "free some").of("disk", "this machine"),
        CheckResult("unknown", "?").of("gpu", "n"),
    ]
    done = doctor("--json")
    assert done.exit_code == 0
    assert "warn     disk" in done.stderr and "this machine: 2 GB -> free some" in done.stderr
    assert "not looked at without a sweep file: memory, mlflow, model_and_data, storage" in done.stderr
    assert "0 ok, 1 warn, 0 fail, 1 unknown" in done.stderr
    gpu = {"check": "gpu", "node": "n", "state": "unknown", "seen": "?", "mend": ""}
    assert json.loads(done.stdout)["findings"][1] == gpu
    looks.findings.append(CheckResult("fail", "http://me:secret@host:5000 is gone").of("mlflow", "driver"))
    done = doctor("--json")
    assert (done.exit_code, "secret" in done.output) == (1, False)


@pytest.mark.usefixtures("hears_signals")
def test_an_interrupted_doctor_promises_no_findings(monkeypatch):
    def look(_site: Site) -> Generator[CheckResult]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from ()

    monkeypatch.setattr(examine, "this_machine", look)
    done = doctor()
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "interrupted: only the checks with a line above are done"


def test_training_is_tested_on_the_quickstart_and_told_as_a_table(looks):
    rows = [{"path": "flat", "tokens/s": "900", "problem": ""}, {"path": "peft", "tokens/s": "70", "problem": ""}]
    looks.findings = [CheckResult("ok", "H100", rows=rows).of("train", "this machine")]
    done = doctor("--train", "--json")
    assert done.exit_code == 0
    how_long = "about a minute on a GPU, some minutes on a CPU, 30 minutes at most"
    assert done.stderr.startswith(f"testing each way to compute passes on this machine: {how_long}\n")
    assert "    path  tokens/s\n    flat  900\n    peft  70\n" in done.stderr
    assert json.loads(done.stdout)["findings"][0]["rows"] == rows
    (site,) = looks.asked
    assert (site.trains, site.patience, site.needs.base is not None) == (True, 10.0, True)


NOBODY = ["--address", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "ray://head:10001"], "ray:// is another protocol"),
        (NOBODY, "no Ray dashboard answers"),
        (["--address", "https://me:secret@head"], "'https://***@head' must be that of the cluster's dashboard"),
        (["toy", "cluster.profile=local", *NOBODY], "cluster.profile=attached"),
        (["head.yaml", *NOBODY], "no such file"),
        (["--address", "head"], "'head' must be that of the cluster's dashboard, http://HOST:8265; or, on a"),
        (["--address", "head:8265"], "8265 is the port of the dashboard: did you mean http://head:8265?"),
        (["toy", "budget.trials=many"], "budget.trials"),
    ],
)
def test_wrong_use_is_exit_code_2(words, said):
    done = doctor(*words)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("exit_code", "more"), [(0, []), (1, ["--train"])])
def test_a_cluster_is_looked_at_from_outside_by_a_job(monkeypatch, tmp_path, exit_code, more):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSWEEP_DOCTOR_PATIENCE", "4")
    (tmp_path / "s.yaml").write_text(QLORA)
    write_rows(tmp_path)
    answer = {"ok": not exit_code, "findings": [{"check": "disk"}], "not_looked_at": []}
    with dashboard() as board:
        board.prints(f"ok  disk\n{json.dumps(answer)}\n", exit_code)
        done = doctor("s.yaml", "--address", board.address, "--json", *more)
    first = "a job on the head node looks at the cluster: it starts in some seconds, on a busy node in a minute\n"
    assert (done.exit_code, done.stderr) == (exit_code, f"{first}ok  disk\n")
    assert json.loads(done.stdout) == answer
    _, verb, sweep, *rest = board.words()
    assert (verb, sweep.partition(":")[0], rest) == ("doctor", "submitted", ["--address", "auto", "--json", *more])
    assert board.submitted[0]["runtime_env"]["env_vars"]["QSWEEP_DOCTOR_PATIENCE"] == "4"
    assert {Path(name).name for name in board.brought()} >= {"sweep.yaml", "train.jsonl", "on_cluster.py"}
    assert board.jobs == {}


def test_what_the_file_needs_reaches_the_checks(looks, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(TOY + "budget: {trials: auto, wall_clock: 1h, disk: 20GB}\nstorage: out\n")
    assert doctor("s.yaml").exit_code == 0
    needs = looks.asked[0].needs
    assert needs.base is not None and needs.base.trainable == "toy"
    assert (needs.storage, needs.disk_budget) == (str(tmp_path / "out"), 20 * 10**9)
    assert needs.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
