"""Each failure is made for real, and the check finds it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import mlflow_servers
import object_stores
import obstore
import pytest
import torch
import web_servers
from killed_writers import kill_in_transaction

from cluster import timeouts
from cluster.doctor import examine, stores
from cluster.doctor.contract import DRIVER, CheckResult, Needs, Site
from cluster.doctor.examine import CHECKS
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec


def diagnosis(check: str, site: Site | None = None, **needs: Any) -> CheckResult:
    """What a check says of this machine, looked at in this process."""
    site = site or Site(needs=Needs.model_validate(needs))
    return CHECKS[check].look(site)


def fails(check: str, said: str, **needs: Any) -> CheckResult:
    found = diagnosis(check, **needs)
    assert (found.state, said in found.seen) == ("fail", True), found
    return found


def test_packages_that_are_too_old_or_have_our_names_are_found(tmp_path, monkeypatch):
    assert diagnosis("import_names").state == diagnosis("versions").state == "ok"
    for name, imported in (("wandb-sweeps", "sweeps"), ("peft", "")):
        info = tmp_path / f"{name}-0.1.0.dist-info"  # what pip leaves of a distribution
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (info / "top_level.txt").write_text(f"{imported}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = fails("import_names", "the distribution wandb-sweeps is also imported as sweeps")
    assert "pip uninstall wandb-sweeps" in found.mend
    fails("versions", "peft 0.1.0 (needs ")


def test_the_token_must_be_there_and_private(tmp_path, monkeypatch):
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    fails("token", f"there is no {file}")
    file.write_text("not-to-be-shown")
    file.chmod(0o644)
    found = diagnosis("token")
    assert (found.state, found.mend) == ("warn", f"chmod 600 {file}")
    assert "not-to-be-shown" not in found.seen
    file.chmod(0o600)
    assert diagnosis("token").state == "ok"
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert diagnosis("token", Site(node=DRIVER)).state == "warn"


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


def test_storage_that_cannot_be_written_or_has_no_locks_is_a_failure(tmp_path, monkeypatch):
    assert diagnosis("storage", storage=f"{tmp_path}/results").seen == f"{tmp_path}: written and locked"
    assert list(tmp_path.iterdir()) == []
    # /proc takes no folder, not even from root.
    assert fails("storage", "/proc: cannot be written", storage="/proc").mend
    # As Lustre is mounted without `flock`.
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(38, "Function not implemented")))
    unlocked = f"{tmp_path}: its file system has no locks (Function not implemented)"
    assert "mount it with flock" in fails("storage", unlocked, storage=str(tmp_path)).mend


@pytest.fixture(scope="module")
def store() -> Iterator[object_stores.ObjectStore]:
    with object_stores.running() as found:
        yield found


def test_an_object_store_is_written_read_and_left_as_it_was(store, monkeypatch):
    assert diagnosis("storage", storage=store.uri).state == "ok"
    fails("storage", "no such bucket", storage="s3://no-such-bucket/sweeps")
    monkeypatch.setattr(obstore, "get", Mock(side_effect=PermissionError("403 Forbidden")))
    fails("storage", "access is denied", storage=store.uri)
    assert store.names() == []


@pytest.mark.parametrize(("ignored", "said"), [(str, "If-None-Match"), (dict, "If-Match"), (object, "If-None-Match")])
def test_an_object_store_without_conditional_writes_is_found(store, monkeypatch, ignored, said):
    put = obstore.put

    def heedless(store, name, content, mode):
        return put(store, name, content, mode="overwrite" if isinstance(mode, ignored) else mode)

    monkeypatch.setattr(obstore, "put", heedless)
    fails("storage", f"ignores the condition {said}", storage=store.uri)
    assert store.names() == []


def test_a_model_and_data_that_are_not_there_are_a_failure(tmp_path):
    rows = f"{tmp_path}/rows.jsonl"
    model, data = ModelSpec(source=f"{tmp_path}/model"), DataSpec(train=rows, text="{x}")
    base = TrialSpec(trainable="qlora", model=model, data=data, steps=1)
    assert rows in fails("model_and_data", "no such file or folder", base=base).seen
    assert diagnosis("model_and_data", base=TrialSpec(trainable="toy", steps=1)).state == "ok"


@pytest.mark.parametrize(
    ("status", "body", "state", "said", "mend"),
    [
        (200, "{}", "ok", "answers, and accepts the name 127.0.0.1", ""),
        (403, "Invalid Host header - possible DNS rebinding attack detected", "fail", "403", "--allowed-hosts"),
        (401, "You are not authenticated", "fail", "401", "MLFLOW_TRACKING_USERNAME"),
        (404, "not here", "fail", "no MLflow server", "tracking.uri"),
        (502, "<h1>Bad Gateway</h1>", "fail", "502: <h1>Bad Gateway", "log"),
    ],
)
def test_what_an_mlflow_server_answers(status, body, state, said, mend):
    with web_servers.answering(status, body) as address:
        found = diagnosis("mlflow", tracking_uri=f"http://me:secret@{address}")
    assert (found.state, said in found.seen, mend in found.mend) == (state, True, True)
    assert "secret" not in found.seen + found.mend


def test_a_server_or_a_proxy_that_does_not_answer_is_a_failure(monkeypatch):
    fails("mlflow", "Connection refused", tracking_uri=f"http://127.0.0.1:{mlflow_servers.free_port()}")
    monkeypatch.setattr(timeouts, "MLFLOW_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        assert "HTTP_PROXY" in fails("mlflow", "timed out", tracking_uri="http://mlflow.example:5000").mend


def test_a_database_must_be_one_and_a_writer_that_was_killed_in_it_is_no_failure(tmp_path):
    databases = {name: tmp_path / name / "mlflow.db" for name in ("text", "killed", "new")}
    for database in databases.values():
        database.parent.mkdir()
    databases["text"].write_text("not a database, but a text of some length" * 10)
    kill_in_transaction(databases["killed"], "create table runs (name)", "insert into runs values (1)")
    states = {name: diagnosis("mlflow", tracking_uri=f"sqlite:///{file}").state for name, file in databases.items()}
    assert states == {"text": "fail", "killed": "ok", "new": "ok"}
    assert not databases["new"].exists()


def test_a_database_that_does_not_listen_is_a_failure_and_stops_a_launch_only_where_its_place_is_named():
    """Parameters name other places, several hosts have several ports, and some clients are modules of other names."""
    port = mlflow_servers.free_port()
    # A client that is there, whatever it is: it is not used.
    there = f"postgresql+json://me:secret@127.0.0.1:{port}/mlflow"
    fails("mlflow", "Connection refused", tracking_uri=there)
    fails("mlflow", "package nosuchclient is missing", tracking_uri="postgresql+nosuchclient://db/mlflow")
    several = f"postgresql+json://u@h1:{port},h2:{port}/db"
    others = ("postgresql+json://u@/db?host=/nowhere", several, "mysql+nosuch://h/db")
    assert [stores.nothing_answers(uri) is None for uri in (there, *others)] == [False, True, True, True]


def looked(*checks: str, site: Site | None = None) -> list[CheckResult]:
    """What checks say of this machine, looked at as the doctor does."""
    return list(examine.answers(site or Site(), checks))


def test_a_check_that_hangs_is_ended_and_named_beside_those_before_and_after(monkeypatch, tmp_path):
    """nvidia-smi is what hangs when a GPU's driver does."""
    hangs = tmp_path / "nvidia-smi"
    hangs.write_text(f"#!{sys.executable}\nimport threading\nthreading.Event().wait(300)\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # The first check needs seconds at most; what hangs takes the rest of the limit.
    monkeypatch.setattr(timeouts, "DOCTOR_LOOK_SECONDS", 15.0)
    before, hung, after = looked("file_descriptors", "gpu", "bf16")
    assert (before.check, before.state) == ("file_descriptors", "ok")
    assert (hung.check, hung.state) == ("gpu", "fail")
    assert hung.seen == "no answer within 15 s, the limit for all checks of a machine"
    assert hung.mend.startswith(CHECKS["gpu"].hung)
    assert "QSWEEP_DOCTOR_PATIENCE=4" in hung.mend, "the machine may be busy, and nothing else be wrong"
    assert (after.check, after.state) == ("bf16", "unknown")
    assert after.seen == "not looked at, because the check gpu gave no answer"


def test_a_check_whose_process_dies_is_a_failure_and_the_next_checks_are_made(tmp_path, monkeypatch):
    """A library may end the process that loads it."""
    (tmp_path / "bitsandbytes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = {each.check: each for each in looked("token", "bitsandbytes", "file_descriptors")}
    assert [each.state for each in found.values()] == ["ok", "fail", "ok"]
    assert "signal 11" in found["bitsandbytes"].seen
    assert found["bitsandbytes"].mend == CHECKS["bitsandbytes"].hung


def test_a_look_on_a_node_sees_what_the_profile_sets_for_hosts(tmp_path):
    needs = Needs(environment={"QSWEEP_CACHE": f"{tmp_path}/there"})
    assert f"{tmp_path}/there" in looked("disk", site=Site(node="10.0.0.2", declared_gpus=0.0, needs=needs))[0].seen


def test_a_look_ends_with_the_process_that_asked():
    """So that a doctor that is killed leaves nothing on a node."""
    reader = "from trainables import asked_process; asked_process.question(); print('asked', flush=True)\n"
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
