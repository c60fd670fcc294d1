"""A path that is wrong, breaks or hangs is not used; of those that are right the fastest is."""

from __future__ import annotations

import inspect
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import packs
import pytest
import torch

from trainables.engine_paths import EnginePath, PassRate, SelfTest, Tried
from trainables.packing import grouped_product, path_tests, self_test
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.pass_limits import TRAINED_TOKENS
from trainables.packing.path_tests import Question
from trainables.specs import TrialSpec

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ROWS = [packs.rows().train.row(place) for place in range(5)]
FLAT = EnginePath(engine="flat", residency="4bit")
GROUPED = EnginePath(engine="grouped", residency="4bit")
PEFT = EnginePath(engine="peft", residency="4bit")
PATHS = pytest.mark.parametrize("path", [FLAT, GROUPED], ids=["in turn", "grouped"])


def question(*paths: EnginePath, base: TrialSpec | None = None, cache: str = "") -> Question:
    rows = tuple((tuple(map(int, row.ids)), tuple(map(bool, row.labelled))) for row in ROWS)
    return Question(
        base=base or packs.spec(), cache=cache, rows=rows, pass_tokens=10 * TRAINED_TOKENS,
        paths=tuple((path, ()) for path in paths),
    )  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> self_test.Reference:
    return self_test.Reference(packs.base(quantised=True), packs.spec(), ROWS)


def tried(reference: self_test.Reference, path: EnginePath) -> Tried:
    return self_test.tried(reference, path, question(path), (7, 8))


def test_right_paths_in_bfloat16_differ_by_less_than_half_of_what_is_allowed():
    reference = self_test.Reference(packs.base("gemma3_text", dtype=torch.bfloat16), packs.spec(), ROWS)
    found = [reference.difference(path) for path in (FLAT, GROUPED)]
    assert all(0.0 < each < 0.5 for each in found), found


@PATHS
def test_a_right_path_is_timed_and_leaves_the_base_as_it_was(reference, path):
    base = reference.base
    layers = {name: type(layer) for name, layer in base.model.named_modules()}
    attention = base.model.config._attn_implementation
    found = tried(reference, path)
    assert found.difference is not None
    assert 0.0 < found.difference < 0.5
    assert (found.problem, found.rates[0].slots, found.rates[0].estimated_bytes) == ("", 1, 7)
    assert all(rate.tokens_per_second > 0 < rate.tokens_per_step for rate in found.rates)
    assert {name: type(layer) for name, layer in base.model.named_modules()} == layers
    assert base.model.config._attn_implementation == attention


def test_the_program_answers_with_a_line_for_each_path(monkeypatch, reference, capsys):
    monkeypatch.setattr(self_test.asked_process, "question", question(FLAT, GROUPED).model_dump_json)
    monkeypatch.setattr(self_test.base_model, "load", lambda *_: reference.base)
    monkeypatch.setattr(self_test, "Reference", lambda *_: reference)
    monkeypatch.setattr(self_test, "tried", lambda _reference, path, *_: Tried(path=path))
    self_test.main()
    ready, *lines = filter(None, capsys.readouterr().out.splitlines())
    assert (ready, [Tried.model_validate_json(line).path for line in lines]) == (path_tests.READY, [FLAT, GROUPED])


@pytest.fixture
def device(monkeypatch):
    """A device with a clock of its own: a pass of fewer tokens than keep it busy takes as long as one of so many."""
    at = SimpleNamespace(now=0.0, busy=0, holds=10**9)
    whole = FlatEngine.token_losses

    def token_losses(engine, segments):
        tokens = engine.pass_tokens(segments)
        if tokens > at.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        at.now += max(tokens, at.busy)
        return whole(engine, segments)

    monkeypatch.setattr(FlatEngine, "token_losses", token_losses)
    monkeypatch.setattr(self_test, "time", SimpleNamespace(perf_counter=lambda: at.now))
    monkeypatch.setattr(self_test, "MAX_SLOTS", 4)
    return at


@pytest.mark.parametrize(
    ("busy", "holds", "timed", "paying"),
    [(40, 10**9, 4, 2), (10**6, 10**9, 4, 4), (10**6, 85, 2, 2)],
    ids=["busy with two", "never busy", "memory ends"],
)
def test_slots_and_tokens_of_a_pass_are_doubled_until_that_does_not_pay(device, reference, busy, holds, timed, paying):
    device.busy, device.holds = busy, holds
    found = tried(reference, GROUPED)
    assert (found.rates[-1].slots, found.paying.slots) == (timed, paying)
    for few, more in pairwise(found.rates):
        assert more.tokens_per_step == pytest.approx(2 * few.tokens_per_step, rel=0.3)
    settled = of(found).settled(NF4)
    assert (settled.slots, settled.pass_tokens) == (paying, 2 * found.paying.tokens_per_step)


class Spoilt(torch.autograd.Function):
    """Leaves losses as they are, and multiplies their gradients."""

    @staticmethod
    def forward(ctx: Any, losses: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


@pytest.mark.parametrize(
    ("path", "factors", "said"),
    [(FLAT, [1.0, torch.nan], "it computes NaN"), (GROUPED, [-1.0, -1.0], "times what rounding explains")],
    ids=["NaN in the second backward pass", "wrong sign"],
)
def test_a_faulty_path_is_refused_and_says_why(monkeypatch, reference, path, factors, said):
    whole, left = FlatEngine.token_losses, iter(factors)

    def token_losses(engine, segments):
        losses = whole(engine, segments)
        if not torch.is_grad_enabled():
            return losses
        factor = next(left)
        return [Spoilt.apply(each, factor) for each in losses]

    monkeypatch.setattr(FlatEngine, "token_losses", token_losses)
    found = tried(reference, path)
    assert said in found.problem
    assert not found.rates


def test_memory_that_is_missing_may_be_there_another_time(monkeypatch, reference):
    def token_losses(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FlatEngine, "token_losses", token_losses)
    found = tried(reference, FLAT)
    assert (found.problem, found.may_pass) == ("it raises OutOfMemoryError: CUDA out of memory", True)


def test_a_path_that_another_engine_would_compute_is_not_right(monkeypatch, reference):
    monkeypatch.setattr(grouped_product, "missing", lambda: "torch has no grouped_mm")
    found = tried(reference, GROUPED)
    assert (found.problem, found.may_pass) == (
        "it raises NotImplementedError: the engine is flat, since torch has no grouped_mm", False,
    )  # fmt: skip


def test_an_engine_that_hung_is_not_tested_on_its_other_residency(monkeypatch):
    asked = []

    def one_process(part, _program):
        asked.append(tuple(path for path, _ in part.paths))
        yield Tried(path=asked[-1][0], problem="it hung: no answer" if len(asked) == 1 else "")

    monkeypatch.setattr(path_tests, "_tested", one_process)
    paths = path_tests.candidates(NF4, True)
    test = path_tests.tested(question(*paths), "a GPU")
    assert asked == [paths, (paths[1], paths[3]), (paths[3],)]
    problems = {each.path.name: each.problem for each in test.tried}
    assert len(problems) == 4
    assert problems["flat"] == "it was not tested, since flat, 4 bit hung"
    assert problems["flat, grouped"] == ""


def rated(path: EnginePath, *tokens_per_second: float, problem: str = "") -> Tried:
    rates = tuple(
        PassRate(slots=2**place, tokens_per_step=10, tokens_per_second=rate)
        for place, rate in enumerate(tokens_per_second)
    )
    return Tried(path=path, problem=problem, rates=rates)


def of(*found: Tried) -> SelfTest:
    return SelfTest(device="H100", seconds=1.0, tried=found)


NF4 = packs.spec().model_copy(update={"quantization": TrialSpec(steps=1).quantization})


def test_the_fastest_right_path_is_taken_with_the_slots_that_pay():
    test = of(rated(FLAT, 10, 12, 13), rated(GROUPED, 8, 15, 29, 30), rated(GROUPED, 99, problem="it lies"))
    settled = test.settled(NF4)
    assert (settled.path, settled.slots) == (GROUPED, 4)
    assert settled.refused == ("H100: flat, grouped, 4 bit is not used: it lies",)


def test_tokens_of_a_pass_that_the_specification_says_stay():
    named = NF4.model_copy(update={"training": NF4.training.model_copy(update={"pass_tokens": 100})})
    test = of(rated(FLAT, 10, 12))
    assert test.settled(named).given_to(named).training.pass_tokens == 100
    assert test.settled(NF4).given_to(NF4).training.pass_tokens == 20


def test_a_named_path_is_taken_though_another_is_faster():
    test = of(rated(FLAT, 10), rated(GROUPED, 20))
    assert test.settled(FLAT.given_to(NF4)).path == FLAT


def test_a_residency_means_nothing_to_a_base_that_is_not_quantised():
    plain = EnginePath(engine="flat", residency="dequantised")
    quantization = NF4.quantization.model_copy(update={"scheme": "none", "residency": "4bit"})
    assert of(rated(plain, 10)).settled(NF4.model_copy(update={"quantization": quantization})).path == plain


def test_the_reference_is_taken_where_the_named_path_is_refused():
    settled = of(rated(FLAT, 10), rated(GROUPED, problem="it hung")).settled(GROUPED.given_to(NF4))
    assert (settled.path, settled.slots) == (PEFT, None)
    assert "it hung" in settled.refused[0]
    assert "PEFT's own layers compute" in settled.refused[1]


@pytest.mark.parametrize(
    ("scheme", "is_dequantised", "names"),
    [
        ("none", True, ["flat", "flat, grouped"]),
        ("nf4", False, ["flat, 4 bit", "flat, grouped, 4 bit"]),
        ("nf4", True, ["flat, 4 bit", "flat, grouped, 4 bit", "flat", "flat, grouped"]),
    ],
)
def test_the_paths_of_a_base_are_its_engines_on_each_residency(scheme, is_dequantised, names):
    quantization = NF4.quantization.model_copy(update={"scheme": scheme})
    base = NF4.model_copy(update={"quantization": quantization})
    assert [path.name for path in path_tests.candidates(base, is_dequantised)] == names


# In processes of their own


def tested_by_another(monkeypatch, **doing: str) -> SelfTest:
    """What came of both paths, tested by the program of `killed_paths`."""
    monkeypatch.setenv("DOING", " ".join(f"{engine}={what}" for engine, what in doing.items()))
    return path_tests.tested(question(FLAT, GROUPED), "a CPU", "killed_paths")


def test_a_probe_that_dies_costs_one_path(monkeypatch):
    test = tested_by_another(monkeypatch, flat="die")
    assert test.tried[0].problem.startswith("its process ended with exit code 3: no kernel")
    assert test.tried[1].problem == ""
    assert test.settled(NF4).path == GROUPED


def test_a_probe_that_hangs_is_ended_and_the_reference_trains(monkeypatch):
    monkeypatch.setattr(path_tests.timeouts, "SELF_TEST_PATH", 0.1)  # of a pass that never ends
    test = tested_by_another(monkeypatch, flat="hang", grouped="hang")
    assert [each.problem for each in test.tried] == ["it hung: no answer within 0 s"] * 2
    assert test.settled(NF4).path == PEFT


def test_the_program_that_is_asked_is_the_self_test():
    assert inspect.signature(path_tests.tested).parameters["program"].default == self_test.__name__
