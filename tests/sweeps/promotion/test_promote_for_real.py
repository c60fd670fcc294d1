"""Promotion with nothing left out: a sweep on Ray, its command, the packaged model in a fresh Python, a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chaos_runs as runs
import mlflow_servers
import promotions
import pytest
import typer
import yaml
from mlflow import MlflowClient
from promotions import MODEL, Trial, run
from typer.testing import CliRunner

from sweeps.cli import app, sweep_end
from sweeps.errors import Failed
from sweeps.promotion import promote as promoting
from sweeps.tracking import served
from sweeps.tracking.registry import Registry
from trainables import qlora
from trainables.base.model_files import sampled_digest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Neither the current folder, nor PYTHONPATH, nor an editable install lends a fresh Python our packages.
WITHOUT_US = """
import importlib.abc, json, os, sys
class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sweeps", "cluster", "trainables", "search_spaces"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refusing())
"""
SERVED = """
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[3])
model = mlflow.pyfunc.load_model("models:/answers@champion")
inner = model.unwrap_python_model()
rows = pandas.DataFrame([{"question": "201 and 5?"}, {"question": "202 and 6?"}])
kinds = sorted({type(module).__name__ for module in inner._model.modules() if "4bit" in type(module).__name__})
print(json.dumps({"texts": model.predict(rows, params={"max_new_tokens": 8}), "kinds": kinds}))
"""
PEFT = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
ids = tokenizer("<|user|>201 and 5?<|end|><|assistant|>the total is 201<|end|>", return_tensors="pt")["input_ids"]
with torch.no_grad():
    plain = float(base(input_ids=ids, labels=ids).loss)
    model = PeftModel.from_pretrained(base, sys.argv[1])
    adapted = float(model(input_ids=ids, labels=ids).loss)
print(json.dumps([plain, adapted]))
"""


def fresh_python(code: str, folder: Path, *words: str) -> list:
    """The lines of JSON that a Python without our packages prints, started in an empty folder."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", WITHOUT_US + code, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]


@pytest.mark.ray
def test_a_sweep_promotes_its_best_adapter_which_a_fresh_python_serves(tmp_path, empty_database):
    """`launch --promote` and again on a 4-bit base; MLflow and PEFT load the result without us."""
    promotions.write_data(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    raw = promotions.config(tmp_path, uri).model_dump(mode="json", exclude_defaults=True)
    raw |= {
        "quantization": {"scheme": "nf4", "double_quant": True, "compute_dtype": "float32"},
        "budget": {"trials": 2, "steps_per_trial": 9},
        "scheduler": {"kind": "asha", "grace_steps": 3},
        "storage": "results",
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw))
    environment = {"QSWEEP_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = runs.start(tmp_path, "launch", "s.yaml", "--promote", **environment)
    assert done.process.wait(400) == 0, done.err.read_text()
    answer, told = done.answer(), done.err.read_text()
    promoted = answer["promotion"]
    assert (promoted["promoted"], promoted["version"], promoted["alias"]) == (True, "1", "champion")
    assert promoted["verdict"]["losses"]["base"] > promoted["verdict"]["losses"][promoted["verdict"]["winner"]]
    assert "served from the registry: 4 rows score as evaluated" in told
    for rows in ("the rows that the sweep was scored on", "base and candidates on data.test"):
        assert re.search(rf"^evaluating .*{rows}, about \d+ (s|min \d\d s) by this sweep's evaluations$", told, re.M)
    # Libraries are silent, and the trial's own process had written the adapter's digest.
    assert "Traceback" not in told
    (warning,) = [line for line in told.split("sweep: ")[1].splitlines() if "arning" in line]
    trained, unquantised = promoted["verdict"]["losses"][promoted["verdict"]["winner"]], promoted["unquantised_loss"]
    assert f"loss {trained:.4f} on the base in nf4, {unquantised:.4f} on the base without quantisation; rows" in warning

    client = MlflowClient(tracking_uri=uri)
    version = client.get_model_version(MODEL, "1")
    path = version.source.removeprefix(f"runs:/{version.run_id}/") + "/artifacts/adapter"
    adapter = client.download_artifacts(version.run_id, path, str(tmp_path))
    [plain, adapted], served = fresh_python(PEFT + SERVED, tmp_path / "elsewhere", adapter, str(tmp_path / "base"), uri)
    assert adapted < plain
    assert (
        f"On the base without quantisation {promoted['verdict']['winner']} has loss {unquantised:.4f}"
        in version.description
    )
    assert served["kinds"] == ["Linear4bit"]
    assert len(served["texts"]) == 2 and all(isinstance(text, str) for text in served["texts"])
    again = runs.start(tmp_path, "resume", "results/tickets", "--promote", **environment)
    assert again.process.wait(400) == 0, again.err.read_text()
    assert again.answer()["promotion"]["already_champion"]


def test_a_served_model_refuses_another_base(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    digest = sampled_digest(base / "model.safetensors")
    facts = {"source": str(base), "kind": "folder", "files": {"model.safetensors": digest}}
    assert served._located(facts) == str(base)
    (base / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ValueError, match="is not the one that the adapter was trained on: model"):
        served._located(facts)
    lost = ((str(tmp_path / "nowhere"), "is not there"), ("package:no_such/m.gguf", "install the package no_such that"))
    for source, way_out in lost:
        with pytest.raises(FileNotFoundError, match=way_out):
            served._located(facts | {"source": source})


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_database):
    """A real server with two sweeps: `first` with a weak adapter, `second` with a strong one; its URI and a folder."""
    root = tmp_path_factory.mktemp("server")
    promotions.write_data(root)
    shutil.copy(empty_database, root / "server.db")
    server = mlflow_servers.Server(root, mlflow_servers.free_port())
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSWEEP_CACHE", str(root / "cache"))
        try:
            config = promotions.config(root, server.uri)
            trained = promotions.train(config, root / "cache")
            fingerprint = qlora.prepare(config.base, root / "cache").summary.fingerprint
            for name, adapter in (("first", "weak"), ("second", "strong")):
                of = config.model_copy(update={"name": name})
                promotions.deliver(of, f"{name}-1", root / "results" / name, [Trial(trained[adapter])], fingerprint)
            yield server.uri, root
        finally:
            server.kill()


def test_a_server_that_fails_on_the_way_is_told(server, monkeypatch):
    """The registry's last request fails as it does when the server has gone: the alias is where it was."""
    uri, _ = server

    def gone(*_: object) -> None:
        MlflowClient(tracking_uri="http://127.0.0.1:1").search_experiments()

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Registry, "point", gone)
    with pytest.raises(Failed, match=r"MLflow \(http://127.0.0.1:\d+\): .*onnection"):
        run("second-1", tracking_uri=uri, model="failing")
    monkeypatch.undo()
    assert MlflowClient(tracking_uri=uri).get_registered_model("failing").aliases == {}


def test_a_sweep_that_did_not_end_well_is_not_promoted(monkeypatch, capsys):
    monkeypatch.setattr("sweeps.report.summary.show", lambda *_: None)
    sweep: Any = None
    ended: Any = SimpleNamespace(exit_code=130, is_ray_left_behind=False, mirror=None, as_json=lambda: {"sweep": "x"})
    with pytest.raises(typer.Exit) as end:
        sweep_end.finish(sweep, ended, True, True)
    assert end.value.exit_code == 130
    out, err = capsys.readouterr()
    assert err == "not promoted: the sweep did not end well (exit code 130)\n"
    assert json.loads(out) == {"sweep": "x", "promotion": None, "not_promoted": "sweep"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_promotion_says_what_the_sweep_was_and_how_to_go_on(number, monkeypatch, capsys):
    monkeypatch.setattr("sweeps.report.summary.show", lambda *_: None)
    monkeypatch.setattr(sweep_end, "request_of", lambda *_, **__: None)
    monkeypatch.setattr(sweep_end, "show_promotion", lambda _: signal.raise_signal(number))
    sweep: Any = SimpleNamespace(config=SimpleNamespace(tracking=SimpleNamespace(uri="sqlite:///a.db")))
    told = {"folder": "/results/x", "as_json": lambda: {"sweep": "x"}}
    ended: Any = SimpleNamespace(exit_code=0, is_ray_left_behind=False, mirror=None, **told)
    with pytest.raises(typer.Exit) as end:
        sweep_end.finish(sweep, ended, True, True)
    assert end.value.exit_code == 128 + number
    out, err = capsys.readouterr()
    advice = "qsweep promote /results/x does what is left"
    assert err == f"\ninterrupted: the alias is where it was, or moved whole; {advice}\n"
    assert json.loads(out) == {"sweep": "x", "promotion": None, "not_promoted": "interrupted"}


def test_the_commands_print_what_happened(server, monkeypatch):
    """Over HTTP: first, not better by so much, better, again, worse, back."""
    uri, _ = server
    inner = promoting.promote
    monkeypatch.setattr(
        promoting, "promote", lambda asked, say, show, tell: inner(asked, say, show, promotions.in_process, tell=tell)
    )

    def invoke(*words: str) -> tuple[int, str, Any]:
        result = CliRunner().invoke(app, [*words, "--tracking-uri", uri, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stderr, json.loads(result.stdout) if result.stdout else None

    assert invoke("promote", "first-1", "--model", MODEL)[0] == 0
    code, err, told = invoke("promote", "second", "--model", MODEL, "--min-gain", "9")
    assert (code, told["promoted"]) == (1, False)
    assert "not promoted: t00 gains" in err and "less than min_gain 9" in err
    (row,) = [line for line in err.splitlines() if line.startswith("t00 ")]
    assert row.split()[2] == "base" and row.rstrip().endswith("not better")
    code, err, told = invoke("promote", "second", "--model", MODEL)
    assert (code, told["version"], told["previous"]) == (0, "2", "1")
    assert "champion: version 2 (before: version 1)" in err
    assert invoke("promote", "second", "--model", MODEL)[2]["already_champion"]
    assert invoke("promote", "first", "--model", MODEL)[0] == 1
    code, err, told = invoke("models", "--model", MODEL)
    assert (code, told["models"][0]["aliases"]) == (0, {"challenger": "2", "champion": "2", "previous": "1"})
    assert [line.split()[:3] for line in err.splitlines() if line.startswith(MODEL)] == [
        [MODEL, "challenger", "2"], [MODEL, "champion", "2"], [MODEL, "previous", "1"],
    ]  # fmt: skip
    code, err, told = invoke("rollback", "--model", MODEL)
    assert (code, told["version"], told["previous"]) == (0, "1", "2")
    assert f"{MODEL}: champion is version 1 (before: version 2)" in err
    code, err, _ = invoke("rollback", "--model", MODEL)
    assert code == 2
    assert f"error: {MODEL}: no version was the champion before: there is nothing to go back to" in err
