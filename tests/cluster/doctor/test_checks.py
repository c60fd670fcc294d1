"""What each check says of a machine. nvidia-smi and what libraries tell are made up, so that any GPU can be shown."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from cluster import devices
from cluster.doctor import examine, gpus, machine, on_cluster, training
from cluster.doctor.contract import DRIVER, CheckResult, Needs, Site
from cluster.doctor.examine import CHECKS
from trainables.base import device_probe
from trainables.engine_paths import EnginePath, PassRate, SelfTest, Tried
from trainables.specs import QuantizationSpec, TrialSpec

Facts = Mapping[str, Any]
HERE = Site()
NODE = Site(node="10.0.0.2", declared_gpus=1.0)
CPU_NODE = Site(node="10.0.0.2", declared_gpus=0.0)


@pytest.fixture(autouse=True)
def other_gpus() -> Iterator[None]:
    """The GPUs of one test are not those of the next."""
    gpus.listed.cache_clear()
    yield
    gpus.listed.cache_clear()


def needing(site: Site = NODE, **needs: Any) -> Site:
    return site.model_copy(update={"needs": Needs(**needs)})


def gpu(*capabilities: str, free_gb: float = 70, **more: object) -> dict[str, Any]:
    """A machine with such GPUs, 8 threads and 10 GB of free memory."""
    free = str(int(free_gb * 1e9 / 2**20))
    told = {"driver_version": "580.1", "memory.free": free, "memory.total": "81920"}
    rows = [
        {"index": str(at), "name": f"GPU-{each}", "compute_cap": each, **told} for at, each in enumerate(capabilities)
    ]
    return {"gpus": rows, **more}


def computing_in(dtype: str, site: Site = NODE, **needs: Any) -> Site:
    quantization = QuantizationSpec.model_validate({"compute_dtype": dtype})
    return needing(site, base=TrialSpec(trainable="toy", quantization=quantization, steps=1), **needs)


def memory(needed: float, planned: float | None = None, site: Site = NODE, **more: Any) -> Site:
    """A sweep that takes so many GB on whatever trains."""
    given = {"one_slot_bytes": needed, "planned_bytes": planned}
    sizes = {name: {"cpu": int(gb * 1e9), "cuda": int(gb * 1e9)} for name, gb in given.items() if gb is not None}
    return needing(site, **sizes, **more)


def in_float32(bfloat16: float, float32: float) -> Site:
    """A sweep that takes so many GB on a GPU with bfloat16, and so many on one without."""
    return needing(NODE, one_slot_bytes={"cuda": int(bfloat16 * 1e9), "cuda float32": int(float32 * 1e9)})


LOADED = {"problem": None, "sees_gpus": True, "torch": "2.13.0", "cuda": "13.0", "bitsandbytes": "0.50.2"}


def bnb(*errors: float | str, listed: tuple[str, ...] = ("9.0",), **more: object) -> dict[str, Any]:
    """bitsandbytes on devices: how far off the weights come back, or what keeps it from quantising."""
    told = [("error" if isinstance(each, float) else "problem", each) for each in errors]
    found = [{"name": "cuda:0", "error": None, "problem": None, what: each} for what, each in told]
    return gpu(*listed, probe={**LOADED, "devices": found, **more})


NAMES = ("python", "qlora-sweeps", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")


def versions(changed: Mapping[str, str | None], *unmet: str) -> dict[str, Any]:
    """A node's versions beside the driver's, which are 3.1.0."""
    same: dict[str, str | None] = dict.fromkeys(NAMES, "3.1.0")
    return {"versions": same | dict(changed), "unmet": list(unmet), "driver": same}


def disk(**changed: tuple[int, float]) -> dict[str, Any]:
    """A machine whose disks have so many GB free, and are used to such a share."""
    return {"disks": {"cache": (30, 0.5), "tmp": (30, 0.5), "data": (30, 0.5), **changed}}


GB = 10**9
FULL = gpu("9.0", "9.0")
FULL["gpus"][1]["memory.free"] = "1000"
ON_DATA = needing(HERE, work_folder="/data")
JUDGED: list[tuple[str, Facts, Site, str, str]] = [
    ("gpu", gpu("9.0"), NODE, "ok", "1 x GPU-9.0 with 80 GiB; driver 580.1"),
    ("gpu", gpu("9.0", "9.0"), NODE, "warn", "Ray counts only 1 of them"),
    ("gpu", gpu(), NODE, "fail", "Ray counts 1 GPUs, nvidia-smi lists 0"),
    ("gpu", gpu(), CPU_NODE, "ok", "on the CPU with 8 threads"),
    ("gpu", gpu(), HERE, "ok", "no GPU"),
    ("gpu", gpu(has_device=True), HERE, "fail", "no nvidia-smi"),
    ("gpu", gpu(error="Driver/library version mismatch"), HERE, "fail", "Driver/library version mismatch"),
    # The weakest GPU decides.
    ("compute_capability", gpu("9.0", "8.6"), NODE, "ok", "9.0 (GPU-9.0), 8.6 (GPU-8.6)"),
    ("compute_capability", gpu("9.0", "7.0"), NODE, "warn", ""),
    ("compute_capability", gpu("12.0", "5.2"), NODE, "fail", ""),
    ("compute_capability", gpu("[N/A]"), NODE, "fail", ""),
    ("compute_capability", gpu(), NODE, "ok", "no GPU"),
    ("bf16", gpu("12.0", "8.0"), NODE, "ok", "every GPU has it"),
    ("bf16", gpu("9.0", "7.5"), NODE, "warn", "not on GPU-7.5"),
    ("bf16", gpu("7.5"), computing_in("bfloat16"), "fail", "not on GPU-7.5"),
    ("bf16", gpu("7.5"), computing_in("float32"), "ok", "quantization.compute_dtype is float32"),
    # GPUs that the file leaves alone do not count.
    ("bf16", gpu("7.5", bfloat16_speed=2.0), computing_in("bfloat16", gpus_per_host=0), "ok", "on the CPU"),
    ("bf16", gpu("9.0", bfloat16_speed=0.2), computing_in("bfloat16", gpus_per_host=0), "warn", "on the CPU"),
    ("bitsandbytes", bnb(0.07), NODE, "ok", "0.50.2 quantises to NF4 and back on cuda:0"),
    ("bitsandbytes", bnb(0.07, 0.9), NODE, "fail", "come back wrong"),
    ("bitsandbytes", bnb("no kernel image is available"), NODE, "fail", "no kernel image"),
    ("bitsandbytes", bnb(problem="bitsandbytes does not load: x"), NODE, "fail", "bitsandbytes does not load"),
    ("bitsandbytes", bnb(sees_gpus=False, cuda=None), NODE, "fail", "built for CPUs only) sees no GPU"),
    ("bitsandbytes", bnb(0.07, sees_gpus=False, listed=()), NODE, "ok", "quantises"),
    ("memory", gpu("9.0", free_gb=70), memory(20, 50), "ok", "the plan takes 50.0 GB"),
    ("memory", gpu("9.0", free_gb=40), memory(20, 50), "warn", "the plan's slots take 50.0 GB"),
    ("memory", gpu("9.0", free_gb=20), memory(20), "fail", "too little on GPU 0"),  # 85% of 20 GB is too little
    ("memory", FULL, memory(20), "warn", "too little on GPU 1"),
    ("memory", gpu("7.5", free_gb=15), in_float32(8, 16), "fail", "too little on GPU 0"),
    ("memory", gpu("8.6", free_gb=15), in_float32(8, 16), "ok", "GPU 0: 15.0 GB free"),
    ("memory", gpu(), memory(8), "ok", "the machine: 10.0 GB free"),
    ("memory", gpu(), memory(8, cpu_hosts=2), "fail", "each of 2 hosts: 5.0 GB free"),
    ("memory", gpu(), NODE, "unknown", "not known here"),
    ("memory", gpu("9.0"), memory(8, gpus_per_host=0), "ok", "the machine: 10.0 GB free"),
    # A host of several GPUs needs them on one machine.
    ("memory", gpu("9.0", "9.0"), memory(20, site=HERE, gpus_per_host=2), "ok", "takes 20.0 GB on each GPU of a host"),
    ("memory", gpu("9.0", "9.0"), memory(20, gpus_per_host=4), "warn", "a host takes 4 GPUs of one machine, so none"),
    ("memory", gpu("9.0", "9.0"), memory(20, site=HERE, gpus_per_host=4), "fail", "so none is placed here"),
    ("versions", versions({}), NODE, "ok", "ray 3.1.0"),
    ("versions", versions({"peft": "3.0.9"}), NODE, "fail", "peft 3.0.9, on the driver 3.1.0"),
    ("versions", versions({"torch": "3.1.0+cu130"}), NODE, "ok", "torch 3.1.0+cu130"),
    ("versions", versions({"transformers": None}), NODE, "fail", "transformers missing, on the driver 3.1.0"),
    ("versions", versions({"mlflow": None}), NODE, "ok", "mlflow missing"),
    ("versions", versions({"python": "3.1.4"}), NODE, "warn", "python 3.1.4"),
    ("versions", versions({"python": "3.2.0"}), NODE, "fail", "python 3.2.0, on the driver 3.1.0"),
    # Only the driver needs MLflow.
    ("versions", versions({}, "mlflow 2.0 (needs >=3.17)"), NODE, "ok", ""),
    ("versions", versions({}, "mlflow 2.0 (needs >=3.17)"), Site(node=DRIVER), "fail", "mlflow 2.0 (needs >=3.17)"),
    # Ray raises the soft limit to the hard one.
    ("file_descriptors", {"files": (1024, 524288)}, HERE, "ok", "ulimit -n: 1024, at most 524288"),
    ("file_descriptors", {"files": (1024, 4096)}, HERE, "warn", ""),
    ("file_descriptors", {"files": (1024, 1024)}, HERE, "fail", ""),
    ("file_descriptors", {"files": (1024, -1)}, HERE, "ok", "at most unlimited"),
    ("disk", disk(), ON_DATA, "ok", "30.0 GB free in /data"),
    ("disk", disk(), needing(HERE, disk_budget=40 * GB, work_folder="/data"), "fail", "budget.disk may take 40.0 GB"),
    # The budget bounds the plan.
    ("disk", disk(), needing(HERE, disk_budget=20 * GB, disk_bytes=1000 * GB, work_folder="/data"), "ok", ""),
    ("disk", disk(), needing(HERE, disk_bytes=40 * GB, work_folder="/data"), "fail", "the plan may take 40.0 GB"),
    ("disk", disk(tmp=(1, 0.96)), HERE, "warn", "96% full"),
    ("disk", disk(cache=(1, 0.5)), HERE, "warn", "1.0 GB free in "),
    ("disk", disk(cache=(1, 0.5)), Site(node=DRIVER), "ok", "1.0 GB free in "),
]


@pytest.mark.parametrize(("check", "facts", "site", "state", "said"), JUDGED)
def test_what_a_check_says_of_a_machine(monkeypatch, tmp_path, check, facts, site, state, said):
    shown(monkeypatch, tmp_path, facts)
    answer = CHECKS[check].look(site.model_copy(update={"driver_versions": facts.get("driver")}))
    assert (answer.state, said in answer.seen) == (state, True), answer
    assert bool(answer.mend) == (state != "ok")


def shown(monkeypatch: pytest.MonkeyPatch, folder: Path, facts: Facts) -> None:
    """Makes this machine look as `gpu`, `bnb`, `versions` and `disk` say."""
    monkeypatch.setenv("PATH", str(folder))
    if facts.get("gpus") or facts.get("error"):
        table = "\n".join(", ".join(row[field] for field in gpus.FIELDS) for row in facts["gpus"])
        says = f"echo '{facts['error']}'; exit 9" if facts.get("error") else f"echo '{table}'\necho 'not a row'"
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr(gpus, "KERNEL_FILE", folder if facts.get("has_device") else folder / "none")
    monkeypatch.setattr(devices, "threads", lambda: 8)
    monkeypatch.setattr(devices, "free_bytes", lambda _: 10 * GB)
    monkeypatch.setattr(device_probe, "bfloat16_speed", lambda _: facts["bfloat16_speed"])
    monkeypatch.setattr(device_probe, "probe", lambda: facts["probe"])
    monkeypatch.setattr(machine, "installed", lambda: facts["versions"])
    monkeypatch.setattr(machine, "unmet", lambda: facts["unmet"])
    monkeypatch.setattr("resource.getrlimit", lambda _: facts["files"])
    if "disks" in facts:
        monkeypatch.setenv("QSWEEP_CACHE", str(folder / "cache"))
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder / "tmp"))
        monkeypatch.setattr("cluster.doctor.stores._nearest", lambda place: place)
        usage = namedtuple("usage", "used free")
        rooms = {name: (gb * GB, share) for name, (gb, share) in facts["disks"].items()}
        sizes = {name: usage(free * share / (1 - share), free) for name, (free, share) in rooms.items()}
        monkeypatch.setattr("shutil.disk_usage", lambda place: sizes[place.name])


@pytest.mark.parametrize(
    ("named", "speed", "state", "said"),
    [
        (None, 1.75, "ok", "auto is float32; the CPU is 1.8 times as fast in bfloat16 as in float32 (measured): quan"),
        ("float32", 1.75, "ok", "quantization.compute_dtype=bfloat16 makes steps faster"),
        # An Intel Xeon with avx512_bf16 and without AMX: 143 GFLOP/s a thread in float32, 78 in bfloat16.
        ("auto", 78 / 143, "ok", "auto is float32; the CPU takes 1.8 times as long in bfloat16 as in float32"),
        ("bfloat16", 78 / 143, "warn", "is bfloat16; the CPU takes 1.8 times as long in bfloat16 as in float32"),
        ("bfloat16", 0.95, "ok", "is bfloat16; the CPU is about as fast in bfloat16 as in float32 (measured)"),
        ("bfloat16", None, "unknown", "how fast the CPU is in bfloat16 was not measured"),
    ],
)
def test_without_a_gpu_what_was_measured_on_the_processor_is_told(monkeypatch, tmp_path, named, speed, state, said):
    site = HERE if named is None else computing_in(named)
    shown(monkeypatch, tmp_path, gpu(bfloat16_speed=speed))
    answer = CHECKS["bf16"].look(site)
    assert (answer.state, said in answer.seen) == (state, True), answer
    assert ("to float32" in answer.mend) == (state != "ok")
    assert ("makes steps faster" in answer.seen) == ("steps faster" in said or named is None)


@pytest.mark.parametrize(
    ("least", "most", "state", "said"),
    [
        (-0.01, 0.02, "ok", "within 0.0 s"),
        (-5.0, 0.4, "ok", "within 5.0 s"),  # slow to answer is not wrong
        (3.0, 3.5, "warn", "ahead by at least 3.0 s"),
        (-901.0, -900.0, "fail", "behind by at least 900.0 s"),
    ],
)
def test_clocks_differ_by_no_less_than_the_answer_shows(least, most, state, said):
    answer = on_cluster.clock(least, most)
    assert (answer.state, said in answer.seen) == (state, True), answer


def test_checks_that_need_a_file_are_left_out_without_one():
    assert examine.NEED_FILE == ("memory", "mlflow", "model_and_data", "storage")
    places: tuple[Literal["driver", "nodes"], ...] = ("driver", "nodes")
    for place in places:
        with_file, without = (examine.chosen(site, place) for site in (computing_in("auto"), NODE))
        assert set(with_file) - set(without) == set(examine.NEED_FILE) & set(with_file)
    everything = examine.chosen(computing_in("auto"), *places)
    assert set(everything) == {name for place in places for name in examine.chosen(computing_in("auto"), place)}


def test_a_node_is_sent_no_secret_of_the_driver_and_keeps_the_rest():
    site = needing(tracking_uri="http://me:secret@mlflow:5000", storage="/data")
    sent = site.without_secrets()
    assert "secret" not in sent.model_dump_json()
    assert (sent.node, sent.needs.storage) == ("10.0.0.2", "/data")


def test_paths_that_are_right_are_a_table_and_one_that_is_refused_is_warned_of():
    rate = PassRate(
        slots=1, tokens_per_step=100, tokens_per_second=900, peak_bytes=2 * 10**9, estimated_bytes=3 * 10**9
    )
    flat = Tried(path=EnginePath(engine="flat", residency="4bit"), difference=0.25, rates=(rate,))
    grouped = flat.model_copy(update={"path": EnginePath(engine="grouped", residency="4bit")})
    faster = grouped.model_copy(update={"rates": (rate.model_copy(update={"tokens_per_second": 1800}),)})
    hung = grouped.model_copy(update={"problem": "it hung: no answer within 300 s", "rates": ()})

    def train(*found: Tried) -> CheckResult:
        return training.told(SelfTest(device="H100", seconds=42.0, tried=found), TrialSpec(steps=1))

    found = train(flat, faster)
    assert (found.state, found.mend) == ("ok", "")
    pays = "slots that pay: 1, in passes of at most 200 tokens"
    assert found.seen == f"H100: sweeps train with flat, grouped, 4 bit; {pays} (tested in 42 s)"
    assert found.rows[1] == {
        "path": "flat, grouped, 4 bit", "difference": "0.25 of 1", "tokens/s": "1,800", "slots": "1",
        "memory": "2.00 of 3.00 GB estimated, 1 slots", "problem": "",
    }  # fmt: skip
    found = train(flat, hung)
    assert found.state == "warn"
    assert "flat, grouped, 4 bit is not used: it hung" in found.seen
    assert "sweeps train with flat, 4 bit" in found.seen


@pytest.mark.parametrize(("trains", "chosen"), [(True, {"train"}), (False, set())])
def test_the_self_test_is_made_when_it_is_asked_for_and_alone(trains, chosen):
    site = needing(base=TrialSpec(trainable="toy", steps=1)).model_copy(update={"trains": trains})
    names = set(examine.chosen(site, "nodes"))
    assert names & {"train"} == chosen
    assert bool(names - {"train"}) != trains
