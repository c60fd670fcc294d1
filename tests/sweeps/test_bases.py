"""LoRA or QLoRA as one sweep of a tiny model on one host: one answer, few changes, and each trial as if alone."""

from __future__ import annotations

from pathlib import Path

import chaos_runs as runs
import pytest
import tiny_sweeps

from sweeps import saved_sweep
from sweeps.record.folder import SweepFolder
from trainables import qlora
from trainables.contract import Evaluation, Opened, Pack
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SPACE = "search_space.quantization.scheme={choice: [nf4, fp4, none]}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[runs.Run, Path]:
    """A sweep over three bases that has ended, and its folder."""
    folder = tmp_path_factory.mktemp("bases")
    tiny_sweeps.write(folder)
    run = runs.start(folder, "launch", "sweep.yaml", SPACE, "budget.trials=9", "data.eval_examples=12")
    assert run.process.wait(600) == 0, run.err.read_text()
    return run, folder / "results" / "tiny"


def test_each_base_is_tried_and_evaluated_and_its_host_seldom_changes(ended):
    run, sweep = ended
    found, told = runs.record(sweep), run.err.read_text()
    used = {trial.base_name.split()[1] for trial in found.trials.values()}
    assert used == {"nf4", "fp4", "none"}
    assert len(found.bases) == 3
    assert len({tuple(each.metrics.items()) for each in found.bases.values()}) == 3
    assert len(list(sweep.glob("base_eval_rows-*.json"))) == 3
    changes = [line for line in told.splitlines() if "host changes its base" in line]
    assert 2 <= len(changes) <= 3 * 3
    assert all(trial.params["quantization"] in used for trial in found.trials.values())


def test_the_end_says_which_base_is_best_and_how_the_others_compare(ended):
    run, sweep = ended
    lines = run.err.read_text().splitlines()
    answers = [line.strip() for line in lines if line.strip().startswith(("nf4: ", "fp4: ", "none: "))]
    assert len(answers) == 3
    assert "is the best of all; " in answers[0]
    assert all(" s a step" in line and " a host" in line for line in answers)
    assert all("t0" in line for line in answers[1:])
    best = run.answer()["best"]
    assert answers[0].startswith(best["params"]["quantization"])
    assert {base["name"] for base in run.answer()["bases"]} == {"nf4", "fp4", "none"}
    assert run.answer()["bases"][0]["best"] == best["trial_key"]
    assert run.answer()["base"]["value"] in [each.metrics["eval_loss"] for each in runs.record(sweep).bases.values()]


def test_each_trial_has_the_numbers_of_the_trial_alone(ended, tmp_path):
    _, sweep = ended
    config = saved_sweep.load(SweepFolder(sweep))[0].config
    payload = qlora.prepare(config.base, tmp_path).payload
    packs: dict[str, Pack] = {}
    for trial in runs.record(sweep).trials.values():
        spec, (last, metrics) = TrialSpec.model_validate_json(trial.spec), trial.evals[-1]
        if spec.base_name not in packs:
            packs[spec.base_name] = qlora.open_pack(config.base.on_base_of(spec), payload, tmp_path)
        pack = packs[spec.base_name]
        assert isinstance(pack.open(0, spec), Opened)
        for _ in range(last):
            pack.step([0])
        alone = pack.evaluate([0])[0]
        pack.close(0)
        assert isinstance(alone, Evaluation)
        assert alone.loss == pytest.approx(metrics["eval_loss"], abs=1e-5), trial
