"""Each failure is made for real, and the check finds it."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import mlflow_servers
import object_stores
import obstore
import pytest
import torch
from killed_writers import kill_in_transaction
from obstore.store import from_url

from cluster.doctor import contract, looking
from cluster.doctor.contract import Asked, Diagnosis
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec


def diagnosis(check: str, asked: Asked | None = None) -> Diagnosis:
    """What a check says of this machine, looked at in this process."""
    asked = asked or Asked()
    module = contract.find(check)
    facts = module.look(asked)
    return module.judge(facts, facts, asked)


# import names


def distribution(folder: Path, name: str, imported: str) -> None:
    """What pip leaves of a distribution: enough for Python to know it."""
    info = folder / f"{name}-0.3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3.0\n")
    (info / "top_level.txt").write_text(f"{imported}\n")


def test_a_distribution_with_one_of_our_names_is_found(tmp_path, monkeypatch):
    assert diagnosis("import_names").state == "ok"
    distribution(tmp_path, "wandb-sweeps", "sweeps")
    monkeypatch.syspath_prepend(tmp_path)
    found = diagnosis("import_names")
    assert found.state == "fail"
    assert "the distribution wandb-sweeps is also imported as sweeps" in found.seen
    assert "pip uninstall wandb-sweeps" in found.mend


# versions


def test_a_requirement_that_is_not_met_is_found(tmp_path, monkeypatch):
    assert diagnosis("versions").state == "ok"
    info = tmp_path / "peft-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = diagnosis("versions")
    assert found.state == "fail"
    assert "peft 0.1.0 (needs " in found.seen


# bf16


def test_a_processor_that_is_slower_in_bfloat16_is_found_by_the_time_that_its_products_take(monkeypatch):
    """Also one whose flags name bfloat16: the clock is made to run twice as long in that type."""
    calls, now = itertools.count(), [0.0]  # the first product in each type takes longer

    def linear(inputs, weights):
        assert inputs.shape[1] == weights.shape[1] == 64
        now[0] += {torch.float32: 1.0, torch.bfloat16: 2.0}[inputs.dtype] + (next(calls) < 2)

    monkeypatch.setattr("torch.nn.functional.linear", linear)
    monkeypatch.setattr("time.thread_time", lambda: now[0])
    threads = torch.get_num_threads()
    sizes = {"parameters": 10**6, "layers": 2, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 304}
    heads = {"attention_heads": 4, "key_value_heads": 4}
    model = ModelSpec.model_validate({"source": "tiny/model", "facts": sizes | heads})
    base = TrialSpec(trainable="toy", model=model, quantization=QuantizationSpec(compute_dtype="bfloat16"))
    found = diagnosis("bf16", Asked(base=base, uses_gpus=False))
    assert found.state == "warn"
    assert "takes 2.0 times as long in bfloat16 as in float32 (measured)" in found.seen
    assert torch.get_num_threads() == threads


# storage


def stored(folder: Path, **more: object) -> Asked:
    return Asked.model_validate({"storage": str(folder), "mark": "m1", **more})


def test_storage_is_written_read_and_left_as_it_was(tmp_path):
    asked = stored(tmp_path / "results")
    storage = contract.find("storage")
    driver = storage.look(asked)
    node = asked.on_node("10.0.0.2", 0.0)
    seen = storage.look(node)
    arrived = storage.collect(asked)  # type: ignore[attr-defined]
    assert storage.judge(driver, driver, asked).state == "ok"
    assert storage.judge(seen, arrived, node).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_sees_another_folder_is_told_and_nothing_is_written_there(tmp_path):
    contract.find("storage").look(stored(tmp_path / "here"))
    there = tmp_path / "there"
    there.mkdir()
    node = stored(there).on_node("10.0.0.2", 0.0)
    facts = contract.find("storage").look(node)
    assert contract.find("storage").judge(facts, {"arrived": []}, node).state == "warn"
    assert list(there.iterdir()) == []


def test_storage_that_cannot_be_written_is_a_failure():
    # /proc takes no folder, not even from root.
    found = diagnosis("storage", stored(Path("/proc")))
    assert found.state == "fail"
    assert "/proc: cannot be written" in found.seen
    assert found.mend


def test_storage_without_locks_is_a_failure(tmp_path, monkeypatch):
    """As Lustre is mounted without `flock`."""
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(38, "Function not implemented")))
    found = diagnosis("storage", stored(tmp_path))
    assert found.state == "fail"
    assert found.seen.startswith(f"{tmp_path}: its file system has no locks (Function not implemented)")
    assert "mount it with flock" in found.mend


def test_what_a_killed_doctor_left_is_removed(tmp_path):
    old, young = tmp_path / ".qsweep-doctor-old", tmp_path / ".qsweep-doctor-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    diagnosis("storage", stored(tmp_path))
    assert not old.exists()
    assert young.exists()


def test_an_object_store_is_written_read_and_left_as_it_was(monkeypatch):
    store = object_stores.ObjectStore()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    store.start()
    try:
        asked = Asked(storage=store.uri, mark="m1")
        missing = diagnosis("storage", asked)
        assert (missing.state, "no such bucket" in missing.seen) == ("fail", True), missing
        store.make_bucket()
        assert diagnosis("storage", asked).state == "ok"
        assert list(obstore.list(from_url(f"s3://{store.bucket}", client_options={"allow_http": True}))) == []
    finally:
        store.stop()
    node = asked.on_node("10.0.0.2", 1.0)
    assert diagnosis("storage", node).seen == f"{store.uri}: only the driver writes there"


@pytest.mark.parametrize(
    ("ignored", "said"),
    [(str, "ignores the condition If-None-Match"), (dict, "ignores the condition If-Match"), (object, "If-None-Match")],
)
def test_an_object_store_without_conditional_writes_is_found(monkeypatch, ignored, said):
    put = obstore.put
    monkeypatch.setattr(
        obstore,
        "put",
        lambda store, name, content, mode: put(
            store, name, content, mode="overwrite" if isinstance(mode, ignored) else mode
        ),
    )
    with object_stores.running() as store:
        found = diagnosis("storage", Asked(storage=store.uri, mark="m1"))
        assert (found.state, said in found.seen) == ("fail", True), found
        assert store.names() == []


def test_an_object_that_cannot_be_read_does_not_stay(monkeypatch):
    def get(*_arguments: object) -> None:
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(obstore, "get", get)
    with object_stores.running() as store:
        found = diagnosis("storage", Asked(storage=store.uri, mark="m1"))
        assert (found.state, "access is denied" in found.seen) == ("fail", True), found
        assert store.names() == []


def test_what_a_killed_doctor_left_on_an_object_store_is_removed_when_it_is_old(monkeypatch):
    with object_stores.running() as store:
        store.write(".qsweep-doctor/m0", b"m0")
        store.write("toy/manifest.json", b"{}")
        asked = Asked(storage=store.uri, mark="m1")
        assert diagnosis("storage", asked).state == "ok"
        assert store.names() == [".qsweep-doctor/m0", "toy/manifest.json"]
        monkeypatch.setattr(contract.find("storage"), "ABANDONED_SECONDS", -1.0)
        assert diagnosis("storage", asked).state == "ok"
        assert store.names() == ["toy/manifest.json"]


# MLflow


class _Answers(BaseHTTPRequestHandler):
    status, body = 200, b"{}"

    def do_POST(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    kind = type("Answers", (_Answers,), {"status": status, "body": body})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "state", "said", "mend"),
    [
        (200, b"{}", "ok", "answers, and accepts the name 127.0.0.1", ""),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "fail", "403", "--allowed-hosts"),
        (401, b"You are not authenticated", "fail", "401", "MLFLOW_TRACKING_USERNAME"),
        (404, b"not here", "fail", "no MLflow server", "tracking.uri"),
        (502, b"<h1>Bad Gateway</h1>", "fail", "502: <h1>Bad Gateway", "log"),
    ],
)
def test_what_an_mlflow_server_answers(status, body, state, said, mend):
    with answering(status, body) as port:
        found = diagnosis("mlflow", Asked(tracking_uri=f"http://me:secret@127.0.0.1:{port}"))
    assert found.state == state
    assert said in found.seen
    assert mend in found.mend
    assert "secret" not in found.seen + found.mend


def test_a_server_that_is_not_there_is_a_failure():
    found = diagnosis("mlflow", Asked(tracking_uri=f"http://127.0.0.1:{mlflow_servers.free_port()}"))
    assert (found.state, "Connection refused" in found.seen) == ("fail", True), found


def test_a_proxy_that_says_nothing_is_a_failure(monkeypatch):
    monkeypatch.setattr(contract.find("mlflow"), "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        found = diagnosis("mlflow", Asked(tracking_uri="http://mlflow.example:5000"))
    assert (found.state, "timed out" in found.seen, "HTTP_PROXY" in found.mend) == ("fail", True, True), found


def test_a_file_that_is_no_database_is_a_failure(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but a text of some length" * 10)
    assert diagnosis("mlflow", Asked(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")).state == "fail"
    assert diagnosis("mlflow", Asked(tracking_uri=f"sqlite:///{tmp_path}/other.db")).state == "ok"
    assert not (tmp_path / "other.db").exists()


def test_a_database_whose_writer_was_killed_is_no_failure(tmp_path):
    kill_in_transaction(tmp_path / "mlflow.db", "create table runs (name)", "insert into runs values (1)")
    assert diagnosis("mlflow", Asked(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")).state == "ok"


def test_a_database_that_does_not_listen_is_a_failure():
    # A client that is there, whatever it is: it is not used.
    uri = f"postgresql+json://me:secret@127.0.0.1:{mlflow_servers.free_port()}/mlflow"
    found = diagnosis("mlflow", Asked(tracking_uri=uri))
    assert (found.state, "Connection refused" in found.seen) == ("fail", True), found
    missing = diagnosis("mlflow", Asked(tracking_uri="postgresql+nosuchclient://db/mlflow"))
    assert "package nosuchclient is missing" in missing.seen


def test_a_launch_is_stopped_by_a_database_only_where_its_place_is_named_and_nothing_answers():
    """Parameters name other places, several hosts have several ports, and some clients are modules of other names."""
    port = mlflow_servers.free_port()
    there = f"postgresql+json://me:secret@127.0.0.1:{port}/mlflow"
    others = (
        "postgresql+json://u@/db?host=/nowhere",
        f"postgresql+json://u@h1:{port},h2:{port}/db",
        "mysql+nosuch://h/db",
    )
    look = contract.find("mlflow").look
    asked = [look(Asked(tracking_uri=uri)).get("answers", True) for uri in (there, *others)]
    assert asked == [False, True, True, True]


# Model and data


def test_a_model_that_is_not_there_is_a_failure(tmp_path):
    base = TrialSpec(
        trainable="qlora",
        model=ModelSpec(source=str(tmp_path / "model")),
        data=DataSpec(train=str(tmp_path / "rows.jsonl"), text="{x}"),
        steps=1,
    )
    found = diagnosis("model_and_data", Asked(base=base))
    assert found.state == "fail"
    assert "no such file or folder" in found.seen
    assert str(tmp_path / "rows.jsonl") in found.seen


def test_the_toy_reads_nothing():
    assert diagnosis("model_and_data", Asked(base=TrialSpec(trainable="toy", steps=1))).state == "ok"


# The token


def test_the_token_must_be_there_and_private(tmp_path, monkeypatch):
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert diagnosis("token").state == "fail"
    file.write_text("not-to-be-shown")
    file.chmod(0o644)
    found = diagnosis("token")
    assert (found.state, found.mend) == ("warn", f"chmod 600 {file}")
    assert "not-to-be-shown" not in found.seen
    file.chmod(0o600)
    assert diagnosis("token").state == "ok"
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert diagnosis("token", Asked(node=contract.DRIVER)).state == "warn"


# Looking in a process of its own


def test_a_check_that_hangs_is_ended(monkeypatch):
    """nvidia-smi is what hangs when a GPU's driver does."""
    monkeypatch.setattr(contract.find("gpu"), "SECONDS", 0.01)
    found = looking.look("gpu", Asked())
    assert found.hung_seconds == 0.01
    finding = looking.judged("gpu", found, {}, Asked())
    assert (finding.state, finding.seen) == ("fail", "no answer within 0 s")
    assert finding.mend.startswith(contract.find(finding.check).HUNG)
    assert "QSWEEP_DOCTOR_PATIENCE=4" in finding.mend, "the machine may be busy, and nothing else be wrong"


def test_what_a_look_did_not_foresee_is_told():
    """Standing for it: a question without what the check needs."""
    found = looking.look("model_and_data", Asked())
    assert found.error is not None and "AssertionError" in found.error
    assert looking.judged("model_and_data", found, {}, Asked()).state == "unknown"


def test_a_look_whose_process_dies_is_a_failure(tmp_path, monkeypatch):
    """A library may end the process that loads it."""
    (tmp_path / "bitsandbytes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = looking.look("bitsandbytes", Asked())
    assert found.crash is not None and "signal 11" in found.crash
    assert looking.judged("bitsandbytes", found, {}, Asked()).state == "fail"


def test_a_look_on_a_node_sees_what_the_profile_sets_for_hosts(tmp_path):
    asked = Asked(node="10.0.0.2", declared_gpus=0.0, environment={"QSWEEP_CACHE": str(tmp_path / "there")})
    found = looking.look("disk", asked)
    assert found.facts is not None
    assert found.facts["cache"]["path"] == str(tmp_path / "there")


def test_a_look_ends_with_the_process_that_asked():
    """So that a doctor that is killed leaves nothing on a node."""
    import subprocess
    import sys

    reader = "from cluster.doctor import processes; processes.question(); print('asked', flush=True)\n"
    waits = reader + "import threading; threading.Event().wait(120)"
    with subprocess.Popen(
        [sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"asked\n"
        process.stdin.close()
        assert process.wait(60) == -9
