"""What this machine trains on is told as Ray counts it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from cluster import devices, hosts
from cluster.errors import HostError
from trainables import catalogue
from trainables.contract import Need, Trainable
from trainables.specs import EvaluationSpec, TrialSpec


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("0", 1), ("2,0", 2), ("0,1,2,3", 3), ("", 0), ("NoDevFiles", 0)]
)
def test_gpus_that_a_process_may_not_use_are_not_counted(tmp_path, monkeypatch, visible, count):
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\nprintf 'GPU 0: A\\n  MIG 3g.40gb Device 0: B\\nGPU 1: A\\nGPU 2: A\\n'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == count
    assert devices.unseen_gpus() is None
    listing.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed.'\nexit 9\n")
    assert devices.gpus() == 0
    assert devices.unseen_gpus() == (None if visible in ("", "NoDevFiles") else "NVIDIA-SMI has failed.")


def test_a_host_whose_libraries_cannot_use_its_gpu_does_not_train_on_the_cpu(monkeypatch):
    monkeypatch.setattr("ray.get_gpu_ids", lambda: [2])
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    host = object.__new__(hosts.Host)
    host._trainable = catalogue.find("qlora")
    monkeypatch.setattr(hosts, "gpus", lambda: 0)
    assert host._own_gpus() == [], "Ray was told of a GPU to try out where hosts are placed"
    monkeypatch.setattr(hosts, "gpus", lambda: 1)
    told = r"^GPU 2 of 10\.0\.0\.1: PyTorch .* sees none of the GPUs: install the PyTorch "
    with pytest.raises(HostError, match=told):
        host._own_gpus()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert host._own_gpus() == ["2"]


@pytest.mark.parametrize(("threads", "hosts", "own"), [(8, 1, 8), (8, 3, 2), (2, 2, 1), (1, 1, 1), (2, 64, 1)])
def test_a_host_is_named_after_the_threads_that_it_has(monkeypatch, threads, hosts, own):
    """A rate of a host with all threads does not hold for one that shares them with others."""
    monkeypatch.setattr(devices, "threads", lambda: threads)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(variable, "before")
    devices.use_threads(hosts)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (str(own), str(own))
    assert os.environ["GOMP_SPINCOUNT"] == "before"
    assert devices.name("cpu", hosts=hosts).endswith(f", {own} {'thread' if own == 1 else 'threads'}")


@pytest.mark.parametrize(
    ("before", "count", "expected"), [(None, 2, "0,1"), ("3,1,2", 2, "3,1"), ("GPU-7", 2, "GPU-7"), ("", 1, "")]
)
def test_a_block_sees_so_many_gpus_of_those_that_its_process_sees(monkeypatch, before, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with devices.seeing_gpus(count):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.parametrize(
    ("told", "free"), [("9000", 9000 * 2**20), ("0", 0), ("[N/A]", 5), ("[Insufficient Permissions]", 5)]
)
def test_a_gpu_that_shares_the_memory_of_the_machine_has_as_much_free(monkeypatch, told, free):
    monkeypatch.setattr(devices, "_nvidia_smi", lambda field, gpu: told if gpu == "1" else "10000")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5))
    assert devices.free_bytes("cuda", ["0", "1"]) == free


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> hosts.Host:
    """A host on a CPU, without limits and trainable, in this process."""
    monkeypatch.setattr("ray.get_gpu_ids", list)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "n"))
    monkeypatch.setattr(hosts, "PackLoop", lambda pack, slots: None)
    host = object.__new__(hosts.Host)
    host._base = TrialSpec(trainable="toy")
    return host


def trainable(pack: SimpleNamespace, need: Need | None) -> Trainable:
    return catalogue.of_module(SimpleNamespace(open_pack=lambda *_: pack, need=lambda *_: need))


@pytest.mark.parametrize("held", [12, 5])
def test_a_cpu_host_in_place_of_another_has_as_many_slots_as_that_one(monkeypatch, host, held):
    need = Need(base_bytes=5, slot_bytes=2, step_bytes=0, saturating_slots=9)
    host._limits = hosts.SlotLimits(slots="auto", at_most=9, largest=(), hosts_per_machine=4)
    host._settled = None
    host._trainable = trainable(SimpleNamespace(), need)
    monkeypatch.setattr(hosts, "free_bytes", lambda *_: 64)
    first = host._start(b"", None, ())
    # Of its machine's memory the other three hold a little less than they are expected to, or the base alone.
    monkeypatch.setattr(hosts, "free_bytes", lambda *_: 64 - 3 * held)
    assert (first.slots, first.estimated_bytes) == (4, 13)
    assert host._start(b"", None, (first, first, first)).slots == 4


def test_a_pack_that_restores_no_adapter_is_refused_where_finalists_are_to_be_scored(host):
    host._base = TrialSpec(trainable="mine", evaluation=EvaluationSpec(metrics=("exact_match",), when="best"))
    host._limits = hosts.SlotLimits(slots=1, at_most=1, largest=())
    host._settled = None
    host._trainable = trainable(SimpleNamespace(hardware=""), None)
    with pytest.raises(HostError, match=r"^evaluation.when: best needs .*`restored`.*, and mine's has none: take last"):
        host._start(b"", None, ())
    host._settled = None
    host._trainable = trainable(SimpleNamespace(hardware="", restored=bytes), None)
    assert host._start(b"", None, ()).slots == 1
