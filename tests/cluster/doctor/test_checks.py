"""What each check says of facts. Nothing is looked at here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.doctor import gpus, looking, machine
from cluster.doctor.contract import DRIVER, Diagnosis, Facts, Needs, Site
from cluster.doctor.looking import CHECKS
from trainables.engine_paths import EnginePath, PassRate, SelfTest, Tried
from trainables.specs import QuantizationSpec, TrialSpec

HERE = Site()
NODE = Site(node="10.0.0.2", declared_gpus=1.0)
CPU_NODE = Site(node="10.0.0.2", declared_gpus=0.0)


def needing(site: Site = NODE, **needs: Any) -> Site:
    return site.model_copy(update={"needs": Needs(**needs)})


def gpu(*capabilities: str, free_gb: float = 70, **more: object) -> dict[str, Any]:
    """What is seen of a machine with such GPUs."""
    free = str(int(free_gb * 1e9 / 2**20))
    told = {"driver_version": "580.1", "memory.free": free, "memory.total": "81920"}
    rows = [
        {"index": str(at), "name": f"GPU-{each}", "compute_cap": each, **told} for at, each in enumerate(capabilities)
    ]
    seen = {"gpus": rows, "error": None, "has_device": bool(rows), "threads": 8, "host_free": 10 * 10**9}
    return {**seen, "bfloat16_speed": None, **more}


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


LOADED = {"listed": 1, "problem": None, "sees_gpus": True, "torch": "2.13.0", "cuda": "13.0", "bitsandbytes": "0.50.2"}


def bnb(*errors: float | str, **more: object) -> dict[str, Any]:
    """bitsandbytes on devices: how far off the weights come back, or what keeps it from quantising."""
    told = [("error" if isinstance(each, float) else "problem", each) for each in errors]
    devices = [{"name": "cuda:0", "error": None, "problem": None, what: each} for what, each in told]
    return {**LOADED, "devices": devices, **more}


NAMES = ("python", "qlora-sweeps", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")


def versions(changed: Mapping[str, str | None], *unmet: str) -> dict[str, Any]:
    """A node's versions beside the driver's, which are 3.1.0."""
    same: dict[str, str | None] = dict.fromkeys(NAMES, "3.1.0")
    return {"versions": same | dict(changed), "unmet": list(unmet), "driver": {"versions": same, "unmet": []}}


def disk(**changed: tuple[str, int, float]) -> dict[str, Any]:
    rooms = {"cache": ("/c", 30, 0.5), "temporary": ("/tmp", 30, 0.5), "storage": ("/data", 30, 0.5)} | changed
    return {name: {"path": path, "free": gb * 10**9, "used": used} for name, (path, gb, used) in rooms.items()}


GB = 10**9
FULL = gpu("9.0", "9.0")
FULL["gpus"][1]["memory.free"] = "1000"
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
    ("bitsandbytes", bnb(0.07, sees_gpus=False, listed=0), NODE, "ok", "quantises"),
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
    ("file_descriptors", {"soft": 1024, "hard": 524288}, HERE, "ok", "ulimit -n: 1024, at most 524288"),
    ("file_descriptors", {"soft": 1024, "hard": 4096}, HERE, "warn", ""),
    ("file_descriptors", {"soft": 1024, "hard": 1024}, HERE, "fail", ""),
    ("file_descriptors", {"soft": 1024, "hard": -1}, HERE, "ok", "at most unlimited"),
    ("disk", disk(), HERE, "ok", "30.0 GB free in /data"),
    ("disk", disk(), needing(HERE, disk_budget=40 * GB), "fail", "budget.disk may take 40.0 GB"),
    ("disk", disk(), needing(HERE, disk_budget=20 * GB, disk_bytes=1000 * GB), "ok", ""),  # the budget bounds the plan
    ("disk", disk(), needing(HERE, disk_bytes=40 * GB), "fail", "the plan may take 40.0 GB"),
    ("disk", disk(temporary=("/tmp", 1, 0.96)), HERE, "warn", "96% full"),
    ("disk", disk(cache=("/c", 1, 0.5)), HERE, "warn", "1.0 GB free in /c"),
    ("disk", disk(cache=("/c", 1, 0.5)), Site(node=DRIVER), "ok", "1.0 GB free in /c"),
]


@pytest.mark.parametrize(("check", "facts", "site", "state", "said"), JUDGED)
def test_what_a_check_says_of_facts(check, facts, site, state, said):
    diagnosis = CHECKS[check].judge(facts, site)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis
    assert bool(diagnosis.mend) == (state != "ok")


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
def test_without_a_gpu_what_was_measured_on_the_processor_is_told(named, speed, state, said):
    site = HERE if named is None else computing_in(named)
    diagnosis = CHECKS["bf16"].judge(gpu(bfloat16_speed=speed), site)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis
    assert ("to float32" in diagnosis.mend) == (state != "ok")
    assert ("makes steps faster" in diagnosis.seen) == ("steps faster" in said or named is None)


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
    diagnosis = machine.judge_clock(least, most)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


def test_the_table_of_nvidia_smi_is_read():
    (read,) = gpus.rows("0, NVIDIA H100 80GB HBM3, 580.65.06, 9.0, 80995, 81559\nnot a row\n")
    assert (read["name"], read["compute_cap"], read["memory.free"]) == ("NVIDIA H100 80GB HBM3", "9.0", "80995")


def test_checks_that_need_a_file_are_left_out_without_one():
    assert looking.NEED_FILE == ("memory", "mlflow", "model_and_data", "storage")
    with_file = computing_in("auto")
    for place in ("driver", "nodes"):
        left_out = set(looking.chosen(place, with_file)) - set(looking.chosen(place, NODE))
        assert left_out == set(looking.NEED_FILE) & set(looking.chosen(place, with_file))


def test_a_node_is_sent_no_secret_of_the_driver_and_keeps_the_rest():
    site = needing(tracking_uri="http://me:secret@mlflow:5000", storage="/data")
    sent = site.without_secrets().on_node("10.0.0.3", 2.0)
    assert "secret" not in sent.model_dump_json()
    assert (sent.node, sent.declared_gpus, sent.needs.storage) == ("10.0.0.3", 2.0, "/data")


def test_paths_that_are_right_are_a_table_and_one_that_is_refused_is_warned_of():
    rate = PassRate(
        slots=1, tokens_per_step=100, tokens_per_second=900, peak_bytes=2 * 10**9, estimated_bytes=3 * 10**9
    )
    flat = Tried(path=EnginePath(engine="flat", residency="4bit"), difference=0.25, rates=(rate,))
    grouped = flat.model_copy(update={"path": EnginePath(engine="grouped", residency="4bit")})
    faster = grouped.model_copy(update={"rates": (rate.model_copy(update={"tokens_per_second": 1800}),)})
    hung = grouped.model_copy(update={"problem": "it hung: no answer within 300 s", "rates": ()})

    def train(*found: Tried) -> Diagnosis:
        test = SelfTest(device="H100", seconds=42.0, tried=found)
        return CHECKS["train"].judge({"test": test.model_dump(mode="json")}, needing(base=TrialSpec(steps=1)))

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
    names = set(looking.chosen("nodes", site))
    assert names & {"train"} == chosen
    assert bool(names - {"train"}) != trains
