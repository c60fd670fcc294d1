"""Promotion with nothing left out: a sweep on Ray, its command, the packaged model in a fresh Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chaos_runs as runs
import promotions
import pytest
import yaml
from mlflow import MlflowClient
from promotions import MODEL

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

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
    assert "arning" not in told.split("sweep: ")[1]
    trained, unquantised = promoted["verdict"]["losses"][promoted["verdict"]["winner"]], promoted["unquantised_loss"]
    assert f"loss {trained:.4f} on the base in nf4, {unquantised:.4f} on the base without quantisation; this" in told

    client = MlflowClient(tracking_uri=uri)
    version = client.get_model_version(MODEL, "1")
    path = version.source.removeprefix(f"runs:/{version.run_id}/") + "/artifacts/adapter"
    adapter = client.download_artifacts(version.run_id, path, str(tmp_path))
    trained = json.loads(Path(adapter, "adapter_config.json").read_text())
    assert trained["base_model_name_or_path"] == str(tmp_path / "base")
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
