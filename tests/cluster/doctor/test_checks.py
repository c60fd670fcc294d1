"""What each check says of facts. Nothing is looked at here."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.doctor import contract, nvidia_smi
from cluster.doctor.contract import DRIVER, Asked, Diagnosis, Facts
from trainables.specs import QuantizationSpec, TrialSpec

NODE = Asked(node="10.0.0.2", declared_gpus=1.0)
HERE = Asked()


def judge(check: str, facts: Facts, asked: Asked = NODE, driver: Facts | None = None) -> Diagnosis:
    return contract.find(check).judge(facts, facts if driver is None else driver, asked)


def gpus(*capabilities: str, free_gb: float = 70) -> dict[str, Any]:
    free = str(int(free_gb * 1e9 / 2**20))
    rows = [
        {"index": str(place), "name": f"GPU-{capability}", "driver_version": "580.1", "compute_cap": capability,
         "memory.free": free, "memory.total": "81920"}
        for place, capability in enumerate(capabilities)
    ]  # fmt: skip
    return {"gpus": rows, "error": None, "has_device": bool(rows), "threads": 8, "host_free": 10 * 10**9}


NO_GPU = gpus()


def test_every_check_keeps_the_contract():
    assert len(contract.names()) > 10
    for name in contract.names():
        check = contract.find(name)
        assert check.ON in ("driver", "nodes", "both")
        assert check.SECONDS > 0 and check.HUNG
        assert callable(check.look) and callable(check.judge)
    assert set(contract.left_out()) == {"memory", "mlflow", "model_and_data", "storage"}


def test_the_question_for_a_node_holds_no_secret_of_the_driver():
    asked = Asked(tracking_uri="http://me:secret@mlflow:5000").on_node("10.0.0.2", 2.0)
    assert "secret" not in asked.model_dump_json()
    assert (asked.node, asked.declared_gpus) == ("10.0.0.2", 2.0)


# gpu, compute_capability, bf16


@pytest.mark.parametrize(
    ("facts", "asked", "state", "said"),
    [
        (gpus("9.0"), NODE, "ok", "1 x GPU-9.0 with 80 GiB; driver 580.1"),
        (gpus("9.0", "9.0"), NODE, "warn", "Ray counts only 1 of them"),
        (NO_GPU, NODE, "fail", "Ray counts 1 GPUs, nvidia-smi lists 0"),
        (NO_GPU, NODE.model_copy(update={"declared_gpus": 0.0}), "ok", "on the CPU with 8 threads"),
        (NO_GPU, HERE, "ok", "no GPU"),
        (NO_GPU | {"has_device": True}, HERE, "fail", "no nvidia-smi"),
        (NO_GPU | {"error": "Driver/library version mismatch"}, HERE, "fail", "Driver/library version mismatch"),
    ],
)
def test_gpus_against_what_ray_counts(facts, asked, state, said):
    diagnosis = judge("gpu", facts, asked)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis
    assert bool(diagnosis.mend) == (state != "ok")


@pytest.mark.parametrize(
    ("check", "capabilities", "state"),
    [
        ("compute_capability", ["9.0", "8.6"], "ok"),
        ("compute_capability", ["9.0", "7.0"], "warn"),
        ("compute_capability", ["12.0", "5.2"], "fail"),
        ("compute_capability", ["[N/A]"], "fail"),
        ("compute_capability", [], "ok"),
        ("bf16", ["12.0", "8.0"], "ok"),
        ("bf16", ["9.0", "7.5"], "warn"),
        ("bf16", [], "ok"),
    ],
)
def test_the_weakest_gpu_decides(check, capabilities, state):
    assert judge(check, gpus(*capabilities)).state == state


def computing_in(dtype: str) -> TrialSpec:
    quantization = QuantizationSpec.model_validate({"compute_dtype": dtype})
    return TrialSpec(trainable="toy", quantization=quantization, steps=1)


def test_bfloat16_that_the_file_asks_for_must_be_there():
    for named, state in (("bfloat16", "fail"), ("float32", "ok")):
        assert judge("bf16", gpus("7.5"), NODE.model_copy(update={"base": computing_in(named)})).state == state


@pytest.mark.parametrize(
    ("named", "speed", "state", "said"),
    [
        (
            None,
            1.75,
            "ok",
            "auto is float32; the CPU is 1.8 times as fast in bfloat16 as in float32 (measured): compute",
        ),
        ("auto", 1.75, "ok", "compute_dtype=bfloat16 makes steps faster"),
        ("float32", 1.75, "ok", "compute_dtype=bfloat16 makes steps faster"),
        # An Intel Xeon with avx512_bf16 and without AMX: 143 GFLOP/s a thread in float32, 78 in bfloat16.
        ("auto", 78 / 143, "ok", "auto is float32; the CPU takes 1.8 times as long in bfloat16 as in float32"),
        ("float16", 1.75, "ok", "is float16; the CPU is 1.8 times as fast in bfloat16"),
        ("bfloat16", 1.75, "ok", "is bfloat16; the CPU is 1.8 times as fast in bfloat16"),
        ("bfloat16", 78 / 143, "warn", "is bfloat16; the CPU takes 1.8 times as long in bfloat16 as in float32"),
        ("bfloat16", 0.95, "ok", "is bfloat16; the CPU is about as fast in bfloat16 as in float32 (measured)"),
        ("auto", 1.05, "ok", "is about as fast in bfloat16 as in float32 (measured)"),
        ("bfloat16", None, "unknown", "how fast the CPU is in bfloat16 was not measured"),
        ("auto", None, "ok", "how fast the CPU is in bfloat16 was not measured"),
    ],
)
def test_without_a_gpu_what_was_measured_on_the_processor_is_told(named, speed, state, said):
    asked = HERE if named is None else NODE.model_copy(update={"base": computing_in(named)})
    diagnosis = judge("bf16", NO_GPU | {"bfloat16_speed": speed}, asked)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis
    assert ("to float32" in diagnosis.mend) == (state != "ok")
    assert ("makes steps faster" in diagnosis.seen) == ("steps faster" in said or named is None)


def test_a_node_of_an_earlier_version_tells_nothing_of_its_processor():
    assert "was not measured" in judge("bf16", NO_GPU, NODE).seen


def test_gpus_that_the_file_leaves_alone_do_not_count():
    asked = NODE.model_copy(update={"base": computing_in("bfloat16"), "uses_gpus": False})
    assert judge("bf16", gpus("7.5") | {"bfloat16_speed": 2.0}, asked).state == "ok"
    assert judge("bf16", gpus("9.0") | {"bfloat16_speed": 0.2}, asked).state == "warn"


def test_the_table_of_nvidia_smi_is_read():
    table = "0, NVIDIA H100 80GB HBM3, 580.65.06, 9.0, 80995, 81559\nnot a row\n"
    (gpu,) = nvidia_smi.parsed(table)
    assert (gpu["name"], gpu["compute_cap"], gpu["memory.free"]) == ("NVIDIA H100 80GB HBM3", "9.0", "80995")


# bitsandbytes

LOADED = {"listed": 1, "problem": None, "sees_gpus": True, "torch": "2.13.0", "cuda": "13.0", "bitsandbytes": "0.50.2"}


def device(error: float | None = 0.07, problem: str | None = None) -> dict[str, Any]:
    return {"name": "cuda:0", "error": error, "problem": problem}


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        (LOADED | {"devices": [device()]}, "ok", "0.50.2 quantises to NF4 and back on cuda:0"),
        (LOADED | {"devices": [device(), device(0.9)]}, "fail", "come back wrong"),
        (LOADED | {"devices": [device(None, "no kernel image is available")]}, "fail", "no kernel image"),
        (LOADED | {"problem": "bitsandbytes does not load: x"}, "fail", "bitsandbytes does not load"),
        (LOADED | {"sees_gpus": False, "cuda": None, "devices": []}, "fail", "built for CPUs only) sees no GPU"),
        (LOADED | {"sees_gpus": False, "listed": 0, "devices": [device()]}, "ok", "quantises"),
    ],
)
def test_bitsandbytes_must_load_and_quantise(facts, state, said):
    diagnosis = judge("bitsandbytes", facts)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


# memory


def asked_memory(needed: float, planned: float | None = None, hosts: int = 1) -> Asked:
    by_device = {"cpu": int(needed * 1e9), "cuda": int(needed * 1e9)}
    plan = {} if planned is None else {"cpu": int(planned * 1e9), "cuda": int(planned * 1e9)}
    return NODE.model_copy(update={"needed_bytes": by_device, "planned_bytes": plan, "cpu_hosts": hosts})


@pytest.mark.parametrize(
    ("facts", "asked", "state", "said"),
    [
        (gpus("9.0", free_gb=70), asked_memory(20, 50), "ok", "the plan takes 50.0 GB"),
        (gpus("9.0", free_gb=40), asked_memory(20, 50), "warn", "the plan's slots take 50.0 GB"),
        (gpus("9.0", free_gb=20), asked_memory(20), "fail", "too little on GPU 0"),  # 85% of 20 GB is too little
        (NO_GPU, asked_memory(8), "ok", "the machine: 10.0 GB free"),
        (NO_GPU, asked_memory(8, hosts=2), "fail", "each of 2 hosts: 5.0 GB free"),
        (NO_GPU, NODE, "unknown", "not known here"),
        (gpus("9.0"), asked_memory(8).model_copy(update={"uses_gpus": False}), "ok", "the machine: 10.0 GB free"),
    ],
)
def test_free_memory_against_the_plan(facts, asked, state, said):
    diagnosis = judge("memory", facts, asked)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


@pytest.mark.parametrize(
    ("count", "node", "state", "said"),
    [
        (2, 2.0, "ok", "the base with one adapter takes 20.0 GB on each GPU of a host"),
        (4, 2.0, "warn", "a host takes 4 GPUs of one machine, so none is placed here"),
        (4, None, "fail", "a host takes 4 GPUs of one machine, so none is placed here"),
    ],
)
def test_a_host_of_several_gpus_needs_them_on_one_machine(count, node, state, said):
    asked = asked_memory(20).model_copy(update={"gpus_per_host": count, "declared_gpus": node})
    diagnosis = judge("memory", gpus("9.0", "9.0", free_gb=70), asked)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


def test_one_gpu_of_two_that_is_full_is_no_failure():
    facts = gpus("9.0", "9.0")
    facts["gpus"][1]["memory.free"] = "1000"
    diagnosis = judge("memory", facts, asked_memory(20))
    assert (diagnosis.state, "too little on GPU 1" in diagnosis.seen) == ("warn", True)


# versions


def versions(**changed: str | None) -> dict[str, Any]:
    names = ("python", "qlora-sweeps", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow")
    return {"versions": dict.fromkeys(names, "3.1.0") | changed, "unmet": []}


@pytest.mark.parametrize(
    ("changed", "state", "said"),
    [
        ({}, "ok", "ray 3.1.0"),
        ({"peft": "3.0.9"}, "fail", "peft 3.0.9, on the driver 3.1.0"),
        ({"torch": "3.1.0+cu130"}, "ok", "torch 3.1.0+cu130"),
        ({"transformers": None}, "fail", "transformers missing, on the driver 3.1.0"),
        ({"mlflow": None}, "ok", "mlflow missing"),
        ({"python": "3.1.4"}, "warn", "python 3.1.4"),
        ({"python": "3.2.0"}, "fail", "python 3.2.0, on the driver 3.1.0"),
    ],
)
def test_versions_of_a_node_against_the_drivers(changed, state, said):
    diagnosis = judge("versions", versions(**changed), NODE, versions())
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


@pytest.mark.parametrize(("node", "state"), [(DRIVER, "fail"), ("10.0.0.2", "ok")])
def test_only_the_driver_needs_mlflow(node, state):
    facts = versions() | {"unmet": ["mlflow 2.0 (needs >=3.17)"]}
    assert judge("versions", facts, Asked(node=node), versions()).state == state


# clock, files, disk


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
    diagnosis = judge("clock", {"least": least, "most": most})
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


@pytest.mark.parametrize(
    ("soft", "hard", "state"), [(1024, 524288, "ok"), (1024, 4096, "warn"), (1024, 1024, "fail"), (1024, -1, "ok")]
)
def test_the_hard_limit_of_open_files_counts(soft, hard, state):
    assert judge("file_descriptors", {"soft": soft, "hard": hard}).state == state


@pytest.mark.parametrize(
    ("asked", "changed", "state", "said"),
    [
        (HERE, {}, "ok", "30.0 GB free in /data"),
        (Asked(disk_budget=40 * 10**9), {}, "fail", "budget.disk may take 40.0 GB"),
        (Asked(disk_budget=20 * 10**9, disk_bytes=10**12), {}, "ok", "free"),  # the budget holds the plan down
        (Asked(disk_bytes=40 * 10**9), {}, "fail", "the plan may take 40.0 GB"),
        (HERE, {"temporary": {"path": "/tmp", "free": 10**9, "used": 0.96}}, "warn", "96% full"),
        (HERE, {"cache": {"path": "/c", "free": 10**9, "used": 0.5}}, "warn", "1.0 GB free in /c"),
        (Asked(node=DRIVER), {"cache": {"path": "/c", "free": 10**9, "used": 0.5}}, "ok", "1.0 GB free in /c"),
    ],
)
def test_room_is_needed_for_the_budget_or_the_plan_for_bases_and_for_ray(asked, changed, state, said):
    room = {"free": 30 * 10**9, "used": 0.5}
    facts = {name: {"path": path, **room} for name, path in (("cache", "/c"), ("temporary", "/tmp"))}
    diagnosis = judge("disk", facts | {"storage": {"path": "/data", **room}} | changed, asked)
    assert (diagnosis.state, said in diagnosis.seen) == (state, True), diagnosis


# storage as nodes see it


@pytest.mark.parametrize(
    ("sees", "arrived", "state"),
    [(True, ["driver", "node-10-0-0-2"], "ok"), (True, ["driver"], "warn"), (False, [], "warn")],
)
def test_storage_as_a_node_sees_it(sees, arrived, state):
    facts = {"place": "/data", "error": None, "sees": sees}
    assert judge("storage", facts, NODE, {"arrived": arrived}).state == state
