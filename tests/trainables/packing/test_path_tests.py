"""What a self-test decides, when it is made, and what it is kept for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_sweeps
import torch

from sweeps.config import load
from trainables import qlora
from trainables.base import devices
from trainables.contract import Opened, StepRecord
from trainables.engine_paths import EnginePath, SelfTest, Settled, Tried
from trainables.packing import path_tests
from trainables.packing.path_tests import Question
from trainables.specs import TrialSpec

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


class Gpu:
    """A GPU that is none: its self-tests answer what they are told."""

    def __init__(self, problem: str = "") -> None:
        self.problem, self.may_pass = problem, False
        self.asked: list[Question] = []

    def tested(self, question: Question, device: str) -> SelfTest:
        self.asked.append(question)
        found = tuple(Tried(path=path, problem=self.problem, may_pass=self.may_pass) for path, _ in question.paths)
        return SelfTest(device=device, seconds=1.0, tried=found)


@pytest.fixture
def gpu(monkeypatch, tiny) -> Gpu:
    shutil.rmtree(tiny[2] / "self-tests", ignore_errors=True)
    made = Gpu()
    monkeypatch.setattr(path_tests, "tested", made.tested)
    monkeypatch.setattr(devices, "first", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(devices, "kind", lambda _device: "H100")
    return made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[TrialSpec, bytes, Path]:
    """The base of a sweep, its rows and a cache that holds its 4-bit base."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_sweeps.write(folder)
    base = load.load(str(folder / "sweep.yaml"), [], folder).config.base
    return base, qlora.prepare(base, folder / "cache").payload, folder / "cache"


def changed(base: TrialSpec, section: str, **values: Any) -> TrialSpec:
    return base.model_copy(update={section: getattr(base, section).model_copy(update=values)})


def test_the_second_start_tests_nothing_and_another_adapter_is_tested(gpu, tiny):
    base, data, cache = tiny
    first = qlora.settle_path(base, data, cache)
    assert qlora.settle_path(base, data, cache) == first
    assert first is not None
    assert qlora.settle_path(first.path.given_to(base), data, cache) == first
    assert len(gpu.asked) == 1
    qlora.settle_path(changed(base, "adapter", r=32), data, cache)
    assert len(gpu.asked) == 2
    qlora.self_test(base, data, cache, anew=True)
    assert len(gpu.asked) == 3


def test_a_problem_that_may_pass_is_not_kept_and_another_one_is(gpu, tiny):
    base, data, cache = tiny
    base = changed(base, "adapter", r=48)
    gpu.problem, gpu.may_pass = "it hung", True
    qlora.settle_path(base, data, cache)
    gpu.problem, gpu.may_pass = "it computes NaN", False
    assert "it computes NaN" in qlora.settle_path(base, data, cache).refused[0]
    qlora.settle_path(base, data, cache)
    assert len(gpu.asked) == 2


def test_a_base_that_is_not_quantised_is_tested_once_though_its_path_was_settled(gpu, tiny):
    base, data, cache = tiny
    base = changed(base, "quantization", scheme="none")
    settled = qlora.settle_path(base, data, cache)
    qlora.settle_path(settled.path.given_to(base), data, cache)
    assert len(gpu.asked) == 1


def test_the_rows_go_from_the_shortest_to_the_longest_and_each_path_has_its_estimate(gpu, tiny):
    base, data, cache = tiny
    qlora.self_test(base, data, cache, anew=True)
    (asked,) = gpu.asked
    lengths = [len(ids) for ids, _ in asked.rows]
    assert (len(lengths), lengths, lengths[0] < lengths[-1]) == (path_tests.ROWS, sorted(lengths), True)
    assert [path.name for path, _ in asked.paths] == ["flat, 4 bit", "flat, grouped, 4 bit", "flat", "flat, grouped"]
    assert all(len(of_path) == 16 and of_path == tuple(sorted(of_path)) for _, of_path in asked.paths)


def test_no_pass_of_a_gpu_is_cut_in_the_test_unless_the_file_says_how_long_it_may_be(gpu, tiny):
    base, data, cache = tiny
    for each in (base, changed(base, "training", pass_tokens=100)):
        qlora.self_test(each, data, cache, anew=True)
    free, bounded = gpu.asked
    longest = max(len(ids) for ids, _ in free.rows)
    assert (free.pass_tokens, bounded.pass_tokens) == (16 * base.training.batch_size * longest, 100)
    assert free.paths[0][1][-1] > bounded.paths[0][1][-1]


def test_passes_have_as_many_tokens_as_were_settled(tiny):
    base, data, cache = tiny
    settled = Settled(path=EnginePath(engine="flat", residency="4bit"), pass_tokens=123)
    assert getattr(qlora.open_pack(settled.given_to(base), data, cache), "pass_tokens", 0) == 123
    assert getattr(qlora.open_pack(base, data, cache), "pass_tokens", 0) == 4096


def test_a_cpu_settles_nothing_and_takes_no_time_for_it(monkeypatch, tiny):
    base, data, cache = tiny
    monkeypatch.setattr(path_tests, "tested", lambda *_: pytest.fail("a CPU has one path"))
    assert qlora.settle_path(base, data, cache) is None


@pytest.mark.parametrize("values", [{"engine": "peft"}], ids=["named"])
def test_where_there_is_one_path_nothing_is_tested(gpu, tiny, values):
    base, data, cache = tiny
    assert qlora.settle_path(changed(base, "training", **values), data, cache) is None
    assert not gpu.asked


def test_where_every_path_is_refused_trials_train_on_the_reference(gpu, monkeypatch, tiny):
    base, data, cache = tiny
    gpu.problem = "it computes NaN"
    settled = qlora.settle_path(changed(base, "training", batch_size=1), data, cache)
    assert settled is not None
    assert (settled.path.name, len(settled.refused)) == ("peft, 4 bit", 5)
    monkeypatch.undo()
    base = settled.path.given_to(base)
    pack = qlora.open_pack(base, data, cache)
    assert getattr(pack, "engine_name", "") == "peft"
    assert isinstance(pack.open(0, base), Opened)
    assert isinstance(pack.step([0])[0], StepRecord)
