"""A plan is for the place where the sweep will run, with the memory and the devices that are there."""

from __future__ import annotations

from typing import Any

import pytest
from measured_rates import rate
from sweep_files import RATES, toy
from typer.testing import CliRunner

from cluster import devices
from sweeps.cli import app
from sweeps.config import load
from sweeps.errors import ConfigError
from sweeps.planning import this_machine
from sweeps.planning.capacity import Machine
from sweeps.planning.plan import Plan
from sweeps.planning.rates import Rate, RateKey
from sweeps.report.plan_lines import plan_lines
from trainables.contract import Prepared, Summary

LARGE = [name for name in load.recipes() if name.startswith(("llama", "mistral"))]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    monkeypatch.setattr(devices, "free_bytes", lambda device, own: {"cpu": 10**9, "cuda": 10**10}[device])
    monkeypatch.setattr(devices, "use_threads", lambda hosts: None)


def sweep(**cluster: Any) -> load.LoadedSweep:
    return load.LoadedSweep(*toy(RATES, cluster=cluster))


def here(to_launch: bool = False, **cluster: Any) -> Plan:
    return this_machine.plan_here(sweep(**cluster), to_launch)


def told(planned: Plan, begins: str) -> list[str]:
    return [line for line in planned.warnings if line.startswith(begins)]


def device_name(**cluster: Any) -> str:
    return str(this_machine.machine_of(sweep(**cluster).config).device_name)


CLUSTER = "on a Ray cluster"


@pytest.mark.parametrize(
    ("cluster", "found", "place"),
    [
        ({}, ("cpu", 1, 4), "on this machine: 1 CPU host with 4 slots (4 trials train at once); memory: about "),
        ({"address": "local", "hosts": 2, "slots_per_host": 7}, ("cpu", 2, 7), "on this machine: 2 CPU hosts with 7 "),
        ({"gpu_memory": "16GB"}, ("cuda", 1, 4), "on a GPU of 16 GB, not on this machine: 1 GPU host with 4 slots"),
        ({"address": "auto"}, ("cuda", 1, None), f"{CLUSTER}, planned with one of its GPUs: 1 GPU host; how many "),
        ({"address": "head:6379", "gpu_memory": "24GB", "hosts": 4}, ("cuda", 4, 4), f"{CLUSTER} with GPUs of 24 GB: "),
        ({"address": "auto", "gpus_per_host": 0}, ("cpu", 1, None), f"{CLUSTER}: 1 CPU host"),
    ],
)
def test_the_plan_is_for_where_the_sweep_will_run_and_says_so(cluster, found, place) -> None:
    planned = here(**cluster)
    assert (planned.device, planned.hosts, planned.slots_per_host) == found
    assert plan_lines(planned)[1].startswith(f"      where: {place}")
    assert not told(planned, "cluster.gpu")


def test_a_host_may_hold_several_gpus_and_a_base_that_fits_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 5)
    found, alone = here(address="local", gpus_per_host=2), here(address="local")
    assert (found.device, found.hosts, found.gpus_per_host) == ("cuda", 2, 2)
    assert plan_lines(found)[1].strip().startswith("where: on this machine: 2 GPU hosts of 2 GPUs each with ")
    (line,) = told(found, "cluster.gpus_per_host 2: the base")
    assert line.endswith("so 2 hosts of one GPU train up to 2 times as much: set cluster.gpus_per_host=1")
    assert (alone.device, alone.hosts, told(alone, "cluster.gpus_per_host")) == ("cuda", 5, [])
    # nvidia-smi, which is not here, would tell more.
    assert device_name(address="local", gpus_per_host=2) == "2x GPU"
    assert device_name(address="auto", gpus_per_host=2, gpu="H100") == "2x H100"


def test_gpus_that_are_asked_for_and_not_here_are_refused_unless_planned_for_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"cluster.gpus_per_host: 1 asked for, but this machine has 0 GPUs: lower it"):
        here(address="local", gpus_per_host=1)
    assert here(address="local", gpus_per_host=1, gpu="L4").place == "on a GPU of L4 24 GB, not on this machine"
    assert here(address="auto", gpus_per_host=1).device == "cuda"


def test_hosts_that_share_a_few_threads_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(hosts: int, **cluster: Any) -> int:
        return len(told(here(hosts=hosts, **{"address": "local", **cluster}), "cluster.hosts "))

    monkeypatch.setattr(devices, "threads", lambda: 2)
    assert (lines(64), lines(2), lines(64, address="auto")) == (1, 0, 0)
    monkeypatch.setattr(devices, "gpus", lambda: 64)
    assert (lines(64), lines(64, gpus_per_host=0)) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([], "A10, A10G, L4, RTX 3090 or RTX 4090 at 12 to 40% of their peak speeds"),
        (["cluster.gpu=H100"], "H100 at 12 to 40% of its peak speed"),
        (["cluster.gpu_memory=null"], "unknown: rates belong to a type of GPU; name it as cluster.gpu."),
        (["model.source=a/b", "cluster.gpu=H100"], "unknown: no rate of a GPU of the type H100 is known here, nor the"),
        (["cluster.gpus_per_host=0"], "unknown: run `qsweep plan FILE --calibrate`"),
    ],
)
def test_a_recipe_is_estimated_before_a_gpu_is_rented(monkeypatch, tmp_path, changes, says) -> None:
    monkeypatch.setenv("QSWEEP_RATES", str(tmp_path / "rates.json"))
    planned = this_machine.plan_here(load.load("llama-3.1-8b-qlora", changes, tmp_path))
    assert any(line.strip().startswith("time: ") and says in line for line in plan_lines(planned))
    assert (planned.forecast.seconds is None) is says.startswith("unknown")
    assert not planned.forecast.is_measured


@pytest.mark.parametrize(
    ("changes", "slots", "warns"),
    [
        (["cluster.gpu=T4"], 1, "auto: T4 has no bfloat16: planned in float32"),
        (["cluster.gpu=T4", "quantization.compute_dtype=float32"], 1, None),
        (["cluster.gpu=T4", "quantization.compute_dtype=bfloat16"], 2, "bfloat16: T4 has no bfloat16: set float32"),
        (["cluster.gpu_memory=16GB"], 1, "a common GPU of 16GB has no bfloat16: bfloat16 plans for one"),
        (["cluster.gpu_memory=16GB", "quantization.compute_dtype=bfloat16"], 2, None),
    ],
)
def test_a_gpu_without_bfloat16_is_planned_in_the_type_that_it_computes_in(tmp_path, changes, slots, warns) -> None:
    planned = this_machine.plan_here(load.load("llama-3.1-8b-qlora", changes, tmp_path))
    assert planned.slots_per_host == slots
    said = told(planned, "quantization.compute_dtype ")
    assert len(said) == (warns is not None) and all(warns in line for line in said)
    lines = [" ".join(line.split()) for line in plan_lines(planned)]
    assert {"16 GB* does not fit 1 slot, recompute QLoRA", "16 GB does not fit 2 slots, recompute QLoRA"} < set(lines)
    assert "* GPUs without bfloat16 (T4, V100), which compute in float32" in lines


def test_rows_that_a_gpu_without_bfloat16_does_not_hold_are_told(tmp_path) -> None:
    changes = ["cluster.gpu=T4", "data.max_length=2048"]
    planned = this_machine.plan_here(load.load("llama-3.1-8b-qlora", changes, tmp_path))
    assert told(planned, "about 16.2 GB needed per host, 13.6 GB free: lower ")
    done = [CliRunner().invoke(app, ["plan", "llama-3.1-8b-qlora", *some]) for some in (changes, changes[:1])]
    assert [each.exit_code for each in done] == [2, 0], "a plan that cannot run has the exit code of a mistake"
    assert ["error: a host does not have the memory" in each.stderr for each in done] == [True, False]


def test_this_machine_s_own_gpu_is_asked_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 2)
    capabilities = {"0": "8.0", "1": "7.5"}
    monkeypatch.setattr(devices, "_nvidia_smi", lambda field, gpu: capabilities[gpu] if "cap" in field else "A GPU")
    assert not this_machine.machine_of(sweep(address="local").config).lacks_bfloat16
    assert this_machine.machine_of(sweep(address="local", gpus_per_host=2).config).lacks_bfloat16
    assert not this_machine.machine_of(sweep(address="local", gpus_per_host=0).config).lacks_bfloat16


@pytest.mark.parametrize(
    ("gpus", "cluster", "field"),
    [
        (0, {"gpu_memory": "80GB"}, "cluster.gpu_memory: 80GB"),
        (1, {"gpu": "H100", "gpu_memory": "80GB"}, "cluster.gpu: H100"),
    ],
)
def test_another_device_than_the_planned_one_is_not_calibrated(monkeypatch, gpus, cluster, field) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    names = {"cpu": "A CPU, 2 threads", "cuda": "NVIDIA L4"}
    monkeypatch.setattr(devices, "name", lambda device, own, hosts: names[device])
    monkeypatch.setattr("sweeps.planning.measuring.calibrate", lambda *_: pytest.fail("this machine is calibrated"))
    with pytest.raises(ConfigError) as raised:
        this_machine.calibrate(sweep(**cluster))
    assert str(raised.value).startswith(f"{field}: --calibrate measures the device of this machine, ")
    assert f"or leave {field.split(':')[0]} out to plan for this one" in str(raised.value)


def test_gpus_that_nvidia_smi_cannot_reach_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    monkeypatch.setattr(devices, "unseen_gpus", lambda: "it has failed")
    (line,) = here().warnings
    assert line.startswith("GPUs of this machine are not used: nvidia-smi: it has failed: install a driver ")
    assert here(gpus_per_host=0).warnings == here(gpu="l4").warnings == ()


def test_hosts_that_share_a_processor_are_planned_and_calibrated_with_their_own_threads(monkeypatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(devices, "threads", lambda: 8)
    monkeypatch.setattr(devices, "use_threads", seen.append)
    monkeypatch.setattr("sweeps.planning.measuring.prepare", lambda _: pytest.fail("it has the threads by now"))
    for hosts, own in ((1, "8 threads"), (4, "2 threads"), (8, "1 thread")):
        assert device_name(hosts=hosts).endswith(f", {own}")
        with pytest.raises(pytest.fail.Exception, match="it has the threads by now"):
            this_machine.calibrate(sweep(hosts=hosts))
    assert seen == [1, 4, 8]


def test_a_calibration_has_as_many_slots_as_a_sweep_on_these_rows(monkeypatch, tmp_path) -> None:
    """Rows that nobody has read yet count as 77 tokens each; where they have 160, fewer trials share a step."""
    monkeypatch.setenv("QSWEEP_RATES", str(tmp_path / "rates.json"))
    monkeypatch.setattr(devices, "free_bytes", lambda *_: 10**11)
    seen: list[int] = []

    def measure(_sweep: object, _prepared: object, slots: int, machine: Machine) -> Rate:
        seen.append(slots)
        key = RateKey(trainable="qlora", model="m", quantization="q", device=str(machine.device_name))
        return rate(key, slots=slots)

    summary = Summary(fingerprint="0" * 16, train_rows=100, eval_rows=8, train_tokens=16_000, longest_row=190)
    monkeypatch.setattr("sweeps.planning.measuring.prepare", lambda _: Prepared(summary=summary, payload=b""))
    monkeypatch.setattr("sweeps.planning.measuring.calibrate", measure)
    quickstart = load.load("quickstart", ["budget.trials=16"], load.RECIPES)
    before = this_machine.plan_here(quickstart)
    this_machine.calibrate(quickstart)
    after = this_machine.plan_here(quickstart)
    assert [before.slots_per_host] != seen == [after.slots_per_host]
    assert "GB, if each row has data.max_length tokens: the rows are not tokenised yet" in plan_lines(before)[2]
    assert plan_lines(after)[2].startswith("      memory by part: ") and "max_length" not in plan_lines(after)[2]


def recipe(name: str, *changes: str, to_launch: bool = False) -> tuple[Plan, str]:
    """Its plan, and the words for where that is."""
    found = this_machine.plan_here(load.load(name, changes, load.RECIPES), to_launch)
    return found, plan_lines(found)[1]


@pytest.mark.parametrize("name", LARGE)
def test_recipes_of_large_models_say_how_one_machine_runs_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for line in (load.RECIPES / f"{name}.yaml").read_text().splitlines() if "On one machine" in line]
    changes = line.rpartition(": ")[2].split()
    assert changes == ["cluster.profile=local", "tracking.uri=sqlite:///mlflow.db"]
    assert "a Ray cluster" not in recipe(name, *changes)[1]
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    monkeypatch.setattr(devices, "free_bytes", lambda device, own: 80 * 10**9)
    found, _ = recipe(name, *changes, to_launch=True)
    assert (found.hosts, found.device, found.engine, found.place) == (4, "cuda", "flat", "on this machine")


def test_a_type_of_gpu_on_the_command_line_brings_its_memory() -> None:
    places = {"cluster.gpu=H100": "(H100 80 GB): ", "cluster.gpu=4090": "(RTX 4090 24 GB): "}
    plans = {gpu: recipe("llama-3.1-8b-qlora", gpu) for gpu in places}
    assert all(f"one of its GPUs {place}" in plans[gpu][1] for gpu, place in places.items())
    assert [found.slots_per_host for found, _ in plans.values()] == [7, 4]
    # Of a type with several sizes the file's memory is kept where it is one of them.
    for gpu in ("A100 80GB", "A100"):
        assert "A100 80 GB" in recipe("llama-3.1-70b-qlora", f"cluster.gpu={gpu}")[1].replace("80GB", "80 GB")
    with pytest.raises(ConfigError, match=r"cluster.gpu_memory: 24GB, but cluster.gpu is H100, which has 80 or 94 GB"):
        recipe("llama-3.1-8b-qlora", "cluster.gpu=H100", "cluster.gpu_memory=24GB")


def test_the_8b_recipe_is_planned_with_the_engine_that_it_has() -> None:
    """The logits of PEFT's engine took 5.3 GB, and left room for two slots on 24 GB."""
    found, _ = recipe("llama-3.1-8b-qlora")
    assert (found.engine, found.slots_per_host) == ("flat", 4)
    assert found.memory.logits < 10**9
    assert not [line for line in found.warnings if "model_type" in line]


def test_a_launch_is_planned_for_the_device_that_is_there() -> None:
    found = here(to_launch=True, gpu_memory="16GB")
    assert (found.device, found.place) == ("cpu", "on this machine")
    says = "cluster.gpu and cluster.gpu_memory (16GB) are not used: the sweep runs on this machine's CPU"
    assert told(found, says) == list(found.warnings[:1])
    assert here(to_launch=True, address="auto", gpu_memory="24GB").place.endswith("one of its GPUs of 24 GB")
