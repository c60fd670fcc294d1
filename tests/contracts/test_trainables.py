"""The contract of trainables and packs, held by every module that `trainables.catalogue` finds."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

import pytest
import python_imports
import torch
from trainable_kits import FACTORIES, STEPS, Kit

from trainables import catalogue
from trainables.contract import Evaluation, Failure, Need, Opened, Pack, StepRecord
from trainables.specs import EvaluationSpec


@pytest.fixture(scope="module", params=sorted(catalogue.available()))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def kit(name, tmp_path_factory) -> Kit:
    if name not in FACTORIES:
        pytest.fail(
            f"trainables/{name}.py offers open_pack, but nothing here makes a pack of it for the contract tests: "
            f"write a function that gives its Kit and add it to FACTORIES in tests/trainable_kits.py"
        )
    return FACTORIES[name](tmp_path_factory.mktemp(name))


@pytest.fixture
def pack(kit) -> Pack:
    return kit.pack()


@pytest.fixture
def training(kit, pack) -> Pack:
    """A pack with `kit.trial` in slot 0."""
    assert isinstance(pack.open(0, kit.trial), Opened)
    return pack


@pytest.fixture(scope="module")
def alone(kit):
    """The losses of the trial without neighbours, to compare with."""
    pack = kit.pack()
    pack.open(0, kit.trial)
    return close_to(kit, losses(pack, 0, STEPS))


def step(pack: Pack, slot: int, *neighbours: int) -> StepRecord:
    record = pack.step([*neighbours, slot])[slot]
    assert isinstance(record, StepRecord), record
    return record


def losses(pack: Pack, slot: int, steps: int, *neighbours: int) -> list[float]:
    return [step(pack, slot, *neighbours).train_loss for _ in range(steps)]


def evaluation(pack: Pack, slot: int) -> Evaluation:
    found = pack.evaluate([slot])[slot]
    assert isinstance(found, Evaluation), found
    return found


def close_to(kit: Kit, expected: list[float] | float):
    return pytest.approx(expected, rel=0, abs=kit.tolerance)


# Packs


def test_a_trial_opens_at_step_0_with_parameters_to_train_and_starts_where_the_base_stands(kit, pack):
    opened = pack.open(0, kit.trial)
    assert isinstance(opened, Opened)
    assert opened.step == 0 < opened.trainable_params
    # An adapter that has not been trained adds nothing.
    assert evaluation(pack, 0).loss == pytest.approx(pack.evaluate_base().loss, abs=kit.tolerance)


def test_steps_count_from_1_and_their_records_add_up(kit, pack):
    pack.open(3, kit.trial)
    records = [step(pack, 3) for _ in range(STEPS)]
    assert [record.step for record in records] == list(range(1, STEPS + 1))
    assert all(record.learning_rate > 0 and record.grad_norm >= 0 for record in records)
    assert sorted(record.tokens for record in records) == [record.tokens for record in records]
    assert sorted(record.seconds for record in records) == [record.seconds for record in records]
    assert records[0].tokens > 0
    assert pack.peak_memory_bytes() > 0


def test_only_the_slots_that_are_named_take_a_step(kit, training):
    training.open(1, kit.neighbour)
    assert training.step([]) == training.evaluate([]) == {}
    assert set(training.step([1])) == {1}
    assert set(training.evaluate([0])) == {0}
    assert step(training, 0, 1).step == 1
    assert step(training, 1).step == 3


def test_the_same_trial_computes_the_same_numbers(kit, training):
    other = kit.pack()
    torch.rand(1)  # what others draw from the global generator is no part of a trial
    other.open(5, kit.trial)
    assert losses(training, 0, STEPS) == close_to(kit, losses(other, 5, STEPS))
    found, expected = evaluation(training, 0).row_losses, evaluation(other, 5).row_losses
    assert found == pytest.approx(expected, abs=100 * kit.tolerance)


def test_a_neighbour_changes_nothing(kit, pack, alone):
    pack.open(0, kit.neighbour)
    pack.open(1, kit.trial)
    found = losses(pack, 1, 2, 0)
    pack.close(0)
    found += losses(pack, 1, 2)
    pack.open(2, kit.neighbour)
    assert found + losses(pack, 1, STEPS - 4, 2) == alone


def test_evaluations_change_nothing_that_training_sees(training, alone):
    found = []
    for _ in range(STEPS):
        training.evaluate([0])
        training.evaluate_base()
        found += losses(training, 0, 1)
    assert found == alone


def test_the_base_is_evaluated_on_the_rows_of_the_trials_and_the_loss_is_the_mean_over_completion_tokens(kit, pack):
    alone_with_it = pack.evaluate_base()
    pack.open(0, kit.trial)
    losses(pack, 0, STEPS)
    found = evaluation(pack, 0)
    assert len(found.row_losses) == len(found.row_tokens) > 0
    assert alone_with_it.row_tokens == found.row_tokens
    assert alone_with_it.hardware == found.hardware == getattr(pack, "hardware", "")
    for each in (alone_with_it, found):
        assert each.loss == pytest.approx(sum(each.row_losses) / sum(each.row_tokens))
    assert alone_with_it.loss != found.loss, "training moves the evaluation"
    # What trains beside it changes nothing of it, not even in the last digit.
    assert pack.evaluate_base() == alone_with_it


def test_snapshot_changes_nothing_and_goes_on_in_another_pack(kit, training, alone):
    first = losses(training, 0, 2)
    snapshot = training.snapshot(0)
    assert type(snapshot) is bytes
    evaluated = evaluation(training, 0).loss
    tokens = step(training, 0).tokens
    other = kit.pack()
    assert other.open(4, kit.trial, snapshot).step == 2
    assert evaluation(other, 4).loss == close_to(kit, evaluated)
    record = step(other, 4)
    assert (record.step, record.tokens) == (3, tokens)
    assert [*first, record.train_loss, *losses(other, 4, STEPS - 3)] == alone
    losses(training, 0, STEPS - 3)
    assert evaluation(training, 0).loss == close_to(kit, evaluation(other, 4).loss)


def test_a_snapshot_goes_on_in_the_slot_that_it_came_from(kit, training, alone):
    first = losses(training, 0, 3)
    snapshot = training.snapshot(0)
    losses(training, 0, 2)
    training.close(0)
    assert training.open(0, kit.trial, snapshot).step == 3
    assert first + losses(training, 0, STEPS - 3) == alone


def test_a_slot_restored_from_an_adapter_evaluates_as_the_slot_that_gave_it(kit, training):
    losses(training, 0, 2)
    other = kit.pack()
    assert isinstance(other.open(4, kit.trial, other.restored(training.adapter(0))), Opened)
    assert evaluation(other, 4).loss == close_to(kit, evaluation(training, 0).loss)


def test_a_slot_that_diverges_says_so_leaves_its_neighbour_alone_and_can_be_given_to_another(kit, pack, alone):
    pack.open(0, kit.diverging)
    pack.open(1, kit.trial)
    found, failure = [], None
    for _ in range(STEPS):
        results = pack.step([0, 1] if failure is None else [1])
        found.append(results[1].train_loss)
        if isinstance(results.get(0), Failure):
            failure = results[0]
    assert failure is not None, f"the diverging trial took {STEPS} steps"
    assert failure.kind == "diverged"
    assert "step" in failure.message
    assert found == alone
    pack.close(0)
    pack.open(0, kit.trial)
    assert losses(pack, 0, STEPS) == alone


def test_an_infeasible_trial_says_so_and_takes_no_slot(kit, pack):
    refused = pack.open(0, kit.infeasible)
    assert isinstance(refused, Failure)
    assert refused.kind == "infeasible"
    assert refused.message
    assert isinstance(pack.open(0, kit.trial), Opened)


def test_opening_a_taken_slot_raises_and_leaves_it_as_it_was(kit, training, alone):
    found = losses(training, 0, 2)
    with pytest.raises(ValueError, match="slot 0 is taken"):
        training.open(0, kit.neighbour)
    assert found + losses(training, 0, STEPS - 2) == alone


def test_a_closed_slot_can_be_opened_again_and_closing_a_free_one_does_nothing(kit, pack, alone):
    for _ in range(2):
        pack.close(0)
        pack.close(7)
        assert isinstance(pack.open(0, kit.trial), Opened)
        assert losses(pack, 0, STEPS) == alone
        pack.close(0)


def test_an_adapter_is_a_folder_of_files_as_it_stands_now(training, alone):
    before = dict(training.adapter(0))
    found = losses(training, 0, 1)
    after = dict(training.adapter(0))
    assert found + losses(training, 0, STEPS - 1) == alone
    assert after
    assert after.keys() == before.keys()
    assert after != before
    for file, content in after.items():
        assert type(content) is bytes
        path = PurePosixPath(file)
        assert not path.is_absolute()
        assert ".." not in path.parts


# Trainables


def test_a_trainable_requires_sections_of_the_sweep_file_and_finds_nothing_wrong_with_one_that_is_right(name, kit):
    trainable = catalogue.find(name)
    assert trainable.REQUIRES.issubset({"model", "data"})
    assert trainable.check(kit.base) == []
    found = trainable.fingerprint(kit.base)
    assert found
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in found.items())
    assert trainable.fingerprint(kit.base) == found


def test_what_target_modules_mean_is_said_of_each_value(name, kit, tmp_path):
    trainable = catalogue.find(name)
    wanted = [kit.trial.adapter.target_modules, "attention", "mlp", ("q_proj",)]
    answers = trainable.resolve_targets(kit.base, wanted, tmp_path)
    if answers is None:
        pytest.skip("it does not know before its trials are opened")
    assert [answer.value for answer in answers] == wanted
    assert all((answer.problem is None) == bool(answer.modules) for answer in answers)
    assert isinstance(kit.pack().open(0, kit.trial), Opened)
    assert answers[0].problem is None, "it was opened"


def test_need_grows_with_the_slots(name, kit):
    need = catalogue.find(name).need(kit.base, [kit.base], "cpu")
    assert isinstance(need, Need)
    assert need.total(1) > 0
    assert need.total(4) > need.total(1)
    assert need.slots(10**15, at_most=2) <= 2
    assert need.slots(0, at_most=2) == 1


def test_prepared_data_opens_a_pack_that_trains(name, kit, tmp_path):
    trainable = catalogue.find(name)
    prepared = trainable.prepare(kit.base, tmp_path)
    assert re.fullmatch("[0-9a-f]{16}", prepared.summary.fingerprint)
    assert trainable.prepare(kit.base, tmp_path) == prepared
    pack = trainable.open_pack(kit.base, prepared.payload, tmp_path)
    assert isinstance(pack.open(0, kit.base), Opened)
    assert step(pack, 0).step == 1
    found = evaluation(pack, 0)
    assert len(found.row_losses) == len(pack.evaluate_base().row_losses) == prepared.summary.eval_rows
    assert math.isfinite(found.loss)


LIGHT = """
import sys
from trainables import catalogue
from trainables.specs import TrialSpec
name, spec = sys.argv[1:]
base, trainable = TrialSpec.model_validate_json(spec), catalogue.find(name)
trainable.check(base), trainable.fingerprint(base), trainable.need(base, [base], "cpu")
"""


def test_questions_before_a_launch_import_nothing_heavy(name, kit):
    graded = EvaluationSpec(metrics=("number", "choice", "json_fields", {"exact_match": {"lower": True}}))
    base = kit.base.model_copy(update={"evaluation": graded})
    assert python_imports.heavy(LIGHT, name, base.model_dump_json()) == set()
