"""Each failure is made for real, and the check finds it."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
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

from cluster import timing
from cluster.doctor import looking, stores
from cluster.doctor.contract import DRIVER, Diagnosis, Needs, Site
from cluster.doctor.looking import CHECKS
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec


def diagnosis(check: str, site: Site | None = None, **needs: object) -> Diagnosis:
    """What a check says of this machine, looked at in this process."""
    site = site or Site(needs=Needs.model_validate(needs), mark="m1")
    return CHECKS[check].judge(CHECKS[check].look(site), site)


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
    found = diagnosis("bf16", base=base, gpus_per_host=0)
    assert found.state == "warn"
    assert "takes 2.0 times as long in bfloat16 as in float32 (measured)" in found.seen
    assert torch.get_num_threads() == threads


# storage


def test_storage_is_written_read_and_left_as_it_was(tmp_path):
    driver = Site(needs=Needs(storage=f"{tmp_path}/results"), mark="m1")
    node = driver.on_node("10.0.0.2", 0.0)
    elsewhere = node.model_copy(update={"needs": Needs(storage=f"{tmp_path}/there/results")})
    (tmp_path / "there").mkdir()
    assert diagnosis("storage", driver).state == "ok"
    seen, unseen = stores.storage(node), stores.storage(elsewhere)
    arrived = stores.collect(driver)
    assert stores.judge_storage({**seen, "driver": arrived}, node).state == "ok"
    assert stores.judge_storage({**unseen, "driver": arrived}, elsewhere).state == "warn"
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"], "where the driver's folder is not seen nothing is written"


def test_storage_that_cannot_be_written_is_a_failure():
    # /proc takes no folder, not even from root.
    found = diagnosis("storage", storage="/proc")
    assert found.state == "fail"
    assert "/proc: cannot be written" in found.seen
    assert found.mend


def test_storage_without_locks_is_a_failure(tmp_path, monkeypatch):
    """As Lustre is mounted without `flock`."""
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(38, "Function not implemented")))
    found = diagnosis("storage", storage=str(tmp_path))
    assert found.state == "fail"
    assert found.seen.startswith(f"{tmp_path}: its file system has no locks (Function not implemented)")
    assert "mount it with flock" in found.mend


@pytest.fixture(scope="module")
def store() -> Iterator[object_stores.ObjectStore]:
    with object_stores.running() as found:
        yield found


def test_an_object_store_is_written_read_and_left_as_it_was(store, monkeypatch):
    assert diagnosis("storage", storage=store.uri).state == "ok"
    missing = diagnosis("storage", storage="s3://no-such-bucket/sweeps")
    assert (missing.state, "no such bucket" in missing.seen) == ("fail", True), missing
    node = Site(node="10.0.0.2", declared_gpus=1.0, needs=Needs(storage=store.uri))
    assert diagnosis("storage", node).seen == f"{store.uri}: only the driver writes there"
    monkeypatch.setattr(obstore, "get", Mock(side_effect=PermissionError("403 Forbidden")))
    unread = diagnosis("storage", storage=store.uri)
    assert (unread.state, "access is denied" in unread.seen) == ("fail", True), unread
    assert store.names() == []


@pytest.mark.parametrize(
    ("ignored", "said"),
    [(str, "ignores the condition If-None-Match"), (dict, "ignores the condition If-Match"), (object, "If-None-Match")],
)
def test_an_object_store_without_conditional_writes_is_found(store, monkeypatch, ignored, said):
    put = obstore.put
    monkeypatch.setattr(
        obstore,
        "put",
        lambda store, name, content, mode: put(
            store, name, content, mode="overwrite" if isinstance(mode, ignored) else mode
        ),
    )
    found = diagnosis("storage", storage=store.uri)
    assert (found.state, said in found.seen) == ("fail", True), found
    assert store.names() == []


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
        found = diagnosis("mlflow", tracking_uri=f"http://me:secret@127.0.0.1:{port}")
    assert found.state == state
    assert said in found.seen
    assert mend in found.mend
    assert "secret" not in found.seen + found.mend


def test_a_server_that_is_not_there_is_a_failure():
    found = diagnosis("mlflow", tracking_uri=f"http://127.0.0.1:{mlflow_servers.free_port()}")
    assert (found.state, "Connection refused" in found.seen) == ("fail", True), found


def test_a_proxy_that_says_nothing_is_a_failure(monkeypatch):
    monkeypatch.setattr(timing, "MLFLOW_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        found = diagnosis("mlflow", tracking_uri="http://mlflow.example:5000")
    assert (found.state, "timed out" in found.seen, "HTTP_PROXY" in found.mend) == ("fail", True, True), found


def test_a_file_that_is_no_database_is_a_failure(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but a text of some length" * 10)
    assert diagnosis("mlflow", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").state == "fail"
    assert diagnosis("mlflow", tracking_uri=f"sqlite:///{tmp_path}/other.db").state == "ok"
    assert not (tmp_path / "other.db").exists()


def test_a_database_whose_writer_was_killed_is_no_failure(tmp_path):
    kill_in_transaction(tmp_path / "mlflow.db", "create table runs (name)", "insert into runs values (1)")
    assert diagnosis("mlflow", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").state == "ok"


def test_a_database_that_does_not_listen_is_a_failure():
    # A client that is there, whatever it is: it is not used.
    uri = f"postgresql+json://me:secret@127.0.0.1:{mlflow_servers.free_port()}/mlflow"
    found = diagnosis("mlflow", tracking_uri=uri)
    assert (found.state, "Connection refused" in found.seen) == ("fail", True), found
    missing = diagnosis("mlflow", tracking_uri="postgresql+nosuchclient://db/mlflow")
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
    answers = [stores.nothing_answers(uri) is None for uri in (there, *others)]
    assert answers == [False, True, True, True]


# Model and data


def test_a_model_that_is_not_there_is_a_failure(tmp_path):
    base = TrialSpec(
        trainable="qlora",
        model=ModelSpec(source=str(tmp_path / "model")),
        data=DataSpec(train=str(tmp_path / "rows.jsonl"), text="{x}"),
        steps=1,
    )
    found = diagnosis("model_and_data", base=base)
    assert found.state == "fail"
    assert "no such file or folder" in found.seen
    assert str(tmp_path / "rows.jsonl") in found.seen


def test_the_toy_reads_nothing():
    assert diagnosis("model_and_data", base=TrialSpec(trainable="toy", steps=1)).state == "ok"


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
    assert diagnosis("token", Site(node=DRIVER)).state == "warn"


# Looking in a process of its own


def looked(check: str, site: Site | None = None) -> Diagnosis:
    """What a check says of this machine, looked at as the doctor does."""
    site = site or Site()
    ((name, look),) = looking.look_at(site, [check])
    found = looking.finding(name, look, site)
    return Diagnosis(found.state, found.seen, found.mend)


def test_a_check_that_hangs_is_ended():
    """nvidia-smi is what hangs when a GPU's driver does."""
    found = looked("gpu", Site(patience=0.0001))
    assert (found.state, found.seen) == ("fail", "no answer within 0 s")
    assert found.mend.startswith(CHECKS["gpu"].hung)
    assert "QSWEEP_DOCTOR_PATIENCE=4" in found.mend, "the machine may be busy, and nothing else be wrong"


def test_what_a_look_did_not_foresee_is_told():
    """Standing for it: a question without what the check needs."""
    found = looked("model_and_data")
    assert (found.state, "AssertionError" in found.seen) == ("unknown", True)


def test_a_look_whose_process_dies_is_a_failure(tmp_path, monkeypatch):
    """A library may end the process that loads it."""
    (tmp_path / "bitsandbytes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = looked("bitsandbytes")
    assert (found.state, "signal 11" in found.seen) == ("fail", True)


def test_a_look_on_a_node_sees_what_the_profile_sets_for_hosts(tmp_path):
    needs = Needs(environment={"QSWEEP_CACHE": str(tmp_path / "there")})
    found = looked("disk", Site(node="10.0.0.2", declared_gpus=0.0, needs=needs))
    assert str(tmp_path / "there") in found.seen


def test_a_look_ends_with_the_process_that_asked():
    """So that a doctor that is killed leaves nothing on a node."""
    reader = "from cluster.doctor import looking; looking.question(); print('asked', flush=True)\n"
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
