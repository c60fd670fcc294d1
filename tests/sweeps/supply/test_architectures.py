"""Six architectures under `lora_core`: each trains with every preset that means something, or is refused in one line.

Models are tiny and random. What a model's configuration tells is refused before Ray starts; what its layers tell, once
hosts have looked at them: there the toy stands for a model.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import chaos_runs as runs
import packs
import pytest
import tiny_models
from mlflow import MlflowClient

import search_spaces
from sweeps.record.events import SweepEnded, TargetSettled, TrialStarted, TrialState
from sweeps.supply import target_modules
from trainables import qlora
from trainables.base import base_model
from trainables.contract import Evaluation, Opened, StepRecord
from trainables.packing import targets
from trainables.specs import ModelSpec, QuantizationSpec, TrialSpec

PRESETS: Any = search_spaces.load("lora_core").domains["adapter.target_modules"].values()
ALL = {"attention-qv", "attention", "mlp", "all-linear"}
TRAINED = {
    "qwen3": (ALL, {}),
    "gemma3_text": (ALL, {}),
    "gpt2": (ALL, {}),
    "stablelm": (ALL, {}),
    # Its experts are stacked tensors: no preset can mean them.
    "mixtral": (ALL - {"mlp"}, {"all-linear": "attention"}),
}
"""Architecture -> the presets that mean something, and those of them that mean another one."""


def spec(folder: Path) -> TrialSpec:
    quantization = QuantizationSpec(scheme="none", compute_dtype="float32")
    return TrialSpec(model=ModelSpec(source=str(folder)), quantization=quantization)


@pytest.mark.parametrize("architecture", TRAINED)
def test_each_preset_that_means_something_trains(architecture: str, tmp_path: Path) -> None:
    means, same = TRAINED[architecture]
    base = spec(tiny_models.save(architecture, tmp_path / "model"))
    answers = qlora.resolve_targets(base, PRESETS, tmp_path)
    assert {answer.value for answer in answers if answer.problem is None} == means
    assert target_modules.settle(answers).stands_for == same
    pack = packs.pack(base_model.load(base, tmp_path))
    for slot, preset in enumerate(sorted(means)):
        trial = packs.spec(seed=slot, target_modules=preset)
        assert isinstance(pack.open(slot, trial), Opened), preset
    slots = range(len(means))
    before = [found.loss for found in pack.evaluate(slots).values()]
    for _ in range(5):
        assert all(isinstance(found, StepRecord) for found in pack.step(slots).values())
    after = pack.evaluate(slots).values()
    assert all(isinstance(found, Evaluation) and math.isfinite(found.loss) for found in after)
    assert all(now.loss != then for now, then in zip(after, before, strict=True))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_what_presets_mean_is_known_without_weights(architecture: str, tmp_path: Path) -> None:
    model = tiny_models.build(architecture)
    model.config.save_pretrained(tmp_path)
    assert all(parameter.is_meta for parameter in base_model.skeleton(spec(tmp_path), tmp_path).parameters())
    assert qlora.resolve_targets(spec(tmp_path), PRESETS, tmp_path) == [targets.answer(model, p) for p in PRESETS]


EXPERTS = '''
"""The toy on a mixture of experts."""
from trainables.contract import Target
from trainables.toy import REQUIRES, check, fingerprint, need, open_pack, prepare

QV, ALL = ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")
LAYERS = {"attention-qv": QV, "attention": ALL, "all-linear": ALL, QV: QV}

def resolve_targets(base, values, cache):
    problem = "adapter.target_modules: {} matches no layer"
    return [
        Target(value=value, modules=LAYERS[value]) if value in LAYERS else
        Target(value=value, problem=problem.format(value))
        for value in values
    ]
'''


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_each_set_of_modules_runs_once_and_a_space_without_one_that_can_be_trained_ends_the_launch(
    tmp_path: Path, empty_database: Path
) -> None:
    """Two sweeps on a mixture of experts, side by side."""

    def start(name: str, *choices: str) -> tuple[runs.Run, Path]:
        """One over these values of adapter.target_modules, by default of mlp."""
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(empty_database, folder / "mlflow.db")
        space = f"search_space={{adapter.target_modules: {{choice: [{', '.join(choices)}]}}}}"
        words = ["searcher.kind=grid", "adapter.target_modules=mlp", "budget.steps_per_trial=9"]
        run = runs.start(folder, "launch", "toy", *runs.variant(folder, "experts", EXPERTS), space, *words)
        return run, folder / "results" / "toy"

    run, sweep = start("whole", "attention-qv", "attention", "mlp", "all-linear", "[q_proj, v_proj]")
    empty, nothing = start("empty", "mlp", "[q_prj]")
    assert run.wait() == 0, run.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/whole/mlflow.db", 2)
    events = runs.events(sweep)
    trained = [event.params["target_modules"] for event in events if isinstance(event, TrialStarted)]
    assert set(trained) == {"attention", "attention-qv"}
    settled = {event.value: event.same_as for event in events if isinstance(event, TargetSettled)}
    assert settled == {"mlp": None, "all-linear": "attention", "q_proj,v_proj": "attention-qv"}
    for target in found.targets.values():  # once when it is known, and once below the table
        assert run.err.read_text().count(f"{target.line}\n") == 2
    (default,) = [trial for trial in found.trials.values() if trial.state is TrialState.INFEASIBLE]
    assert (default.number, default.reason) == (0, "the default configuration: mlp is left out")
    assert run.answer()["best"]["params"]["target_modules"] in trained

    assert empty.wait() == 2, empty.err.read_text()
    told = empty.err.read_text()
    assert "error: adapter.target_modules: mlp matches no layer" in told
    assert "adapter.target_modules: ('q_prj',) matches no layer" in told
    assert "Traceback" not in told and empty.out.read_text() == ""
    assert (type(runs.events(nothing)[-1]), runs.record(nothing).ended.reason) == (SweepEnded, "failed")
    client = MlflowClient(f"sqlite:///{tmp_path}/empty/mlflow.db")
    (parent,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert parent.info.status == "FAILED"
