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
from trainables.packing.path_tests import PathsToTest
from trainables.specs import TrialSpec

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


class Gpu:
    """A GPU that is none: its self-tests answer what they are told."""

    def __init__(self) -> None:
        self.problem, self.may_pass, self.asked = "", False, list[PathsToTest]()

    def tested(self, question: PathsToTest, device: str) -> SelfTest:
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


def test_each_question_is_tested_once(gpu, tiny):
    base, data, cache = tiny
    first = qlora.settle_path(base, data, cache)
    plain = changed(base, "quantization", scheme="none")
    settled = qlora.settle_path(plain, data, cache)
    asked = len(gpu.asked)
    assert qlora.settle_path(base, data, cache) == first
    # Nor is it asked anew where its path was settled.
    assert qlora.settle_path(first.path.given_to(base), data, cache) == first
    assert qlora.settle_path(settled.path.given_to(plain), data, cache) == settled
    assert len(gpu.asked) == asked == 2
    qlora.settle_path(changed(base, "adapter", r=32), data, cache)
    qlora.self_test(base, data, cache, anew=True)
    assert len(gpu.asked) == 4


def test_a_problem_that_may_pass_is_not_kept_and_another_one_is(gpu, tiny):
    base, data, cache = tiny
    gpu.problem, gpu.may_pass = "it hung", True
    qlora.settle_path(base, data, cache)
    gpu.problem, gpu.may_pass = "it computes NaN", False
    assert "it computes NaN" in qlora.settle_path(base, data, cache).refused[0]
    qlora.settle_path(base, data, cache)
    assert len(gpu.asked) == 2


def test_the_rows_go_from_the_shortest_to_the_longest_and_no_pass_is_cut_unless_the_file_says_so(gpu, tiny):
    base, data, cache = tiny
    for each in (base, changed(base, "training", pass_tokens=100)):
        qlora.self_test(each, data, cache, anew=True)
    free, bounded = gpu.asked
    lengths = [len(ids) for ids, _ in free.rows]
    assert (len(lengths), lengths, lengths[0] < lengths[-1]) == (path_tests.ROWS, sorted(lengths), True)
    assert [path.name for path, _ in free.paths] == ["flat, 4 bit", "flat, grouped, 4 bit", "flat", "flat, grouped"]
    # Each path has its estimate for 1 to 16 slots.
    assert all(len(of_path) == 16 and of_path == tuple(sorted(of_path)) for _, of_path in free.paths)
    assert (free.pass_tokens, bounded.pass_tokens) == (16 * base.training.batch_size * lengths[-1], 100)
    assert free.paths[0][1][-1] > bounded.paths[0][1][-1]


def test_paths_are_estimated_in_the_type_that_the_gpu_has(gpu, monkeypatch, tiny):
    base, data, cache = tiny
    for capability in ((8, 0), (7, 5)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _, has=capability: has)
        qlora.self_test(changed(base, "quantization", compute_dtype="auto"), data, cache, anew=True)
    qlora.self_test(base, data, cache, anew=True)  # The file says float32.
    narrow, old, single = ([sizes[0] for _, sizes in question.paths] for question in gpu.asked)
    assert narrow < old == single


def test_passes_have_as_many_tokens_as_were_settled(tiny):
    base, data, cache = tiny
    settled = Settled(path=EnginePath(engine="flat", residency="4bit"), pass_tokens=123)
    assert getattr(qlora.open_pack(settled.given_to(base), data, cache), "pass_tokens", 0) == 123
    assert getattr(qlora.open_pack(base, data, cache), "pass_tokens", 0) == 4096


def test_where_there_is_one_path_nothing_is_tested(gpu, monkeypatch, tiny):
    base, data, cache = tiny
    assert qlora.settle_path(changed(base, "training", engine="peft"), data, cache) is None
    monkeypatch.setattr(devices, "first", lambda: torch.device("cpu"))
    assert qlora.settle_path(base, data, cache) is None
    assert not gpu.asked


def test_where_every_path_is_refused_trials_train_on_the_reference(gpu, monkeypatch, tiny):
    base, data, cache = tiny
    gpu.problem = "it computes NaN"
    settled = qlora.settle_path(base, data, cache)
    assert settled is not None
    assert (settled.path.name, len(settled.refused)) == ("peft, 4 bit", 5)
    monkeypatch.undo()
    base = settled.path.given_to(base)
    pack = qlora.open_pack(base, data, cache)
    assert getattr(pack, "engine_name", "") == "peft"
    assert isinstance(pack.open(0, base), Opened)
    assert isinstance(pack.step([0])[0], StepRecord)
