"""A path that is wrong, breaks or hangs is not used; of those that are right the fastest is."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import packs
import pytest
import torch

from trainables.engine_paths import EnginePath, PassRate, SelfTest, Tried
from trainables.packing import grouped_product, path_tests, self_test
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.pass_limits import TRAINED_TOKENS
from trainables.packing.path_tests import PathsToTest
from trainables.specs import TrialSpec

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ROWS = packs.train_rows(*range(5))
NF4 = packs.spec().model_copy(update={"quantization": TrialSpec(steps=1).quantization})
FLAT, GROUPED, PEFT = (EnginePath(engine=engine, residency="4bit") for engine in ("flat", "grouped", "peft"))


def question(*paths: EnginePath) -> PathsToTest:
    rows = tuple((tuple(map(int, row.ids)), tuple(map(bool, row.labelled))) for row in ROWS)
    return PathsToTest(
        base=packs.spec(),
        cache="",
        rows=rows,
        pass_tokens=10 * TRAINED_TOKENS,
        paths=tuple((path, ()) for path in paths),
    )


@pytest.fixture(scope="module")
def reference() -> self_test.Reference:
    return self_test.Reference(packs.base(quantised=True), packs.spec(), ROWS)


def tried(reference: self_test.Reference, path: EnginePath) -> Tried:
    return self_test.tried(reference, path, question(path), (7, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("engine", ["flat", "grouped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "mistral"])
def test_on_a_gpu_a_path_gives_the_numbers_of_the_reference(architecture, dtype, engine):
    base = packs.base(architecture, dtype=dtype)
    base = replace(base, model=base.model.to("cuda"), device=torch.device("cuda", 0))
    reference = self_test.Reference(base, packs.spec(r=8), ROWS)
    assert reference.difference(EnginePath(engine=engine, residency="dequantised")) < 1.0


def test_right_paths_in_bfloat16_differ_by_less_than_half_of_what_is_allowed():
    reference = self_test.Reference(packs.base("gemma3_text", dtype=torch.bfloat16), packs.spec(), ROWS)
    found = [reference.difference(path) for path in (FLAT, GROUPED)]
    assert all(0.0 < each < 0.5 for each in found), found


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

    def act(engine, segments):
        tokens = engine.pass_tokens(segments)
        if tokens > at.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        at.now += max(tokens, at.busy)

    monkeypatch.setattr(packs, "ENGINE", FlatEngine)
    packs.before_passes(monkeypatch, act)
    monkeypatch.setattr(self_test, "time", SimpleNamespace(perf_counter=lambda: at.now))
    monkeypatch.setattr(self_test, "MAX_SLOTS", 4)
    return at


@pytest.mark.parametrize(
    ("path", "busy", "holds", "timed", "paying"),
    [(FLAT, 0, 10**9, 2, 1), (GROUPED, 40, 10**9, 4, 2), (GROUPED, 10**6, 10**9, 4, 4), (GROUPED, 10**6, 85, 2, 2)],
    ids=["in turn, busy with one", "grouped, busy with two", "grouped, never busy", "grouped, memory ends"],
)
def test_a_right_path_has_its_slots_and_tokens_doubled_until_that_does_not_pay(
    device, reference, path, busy, holds, timed, paying
):
    model = reference.base.model
    device.busy, device.holds, before = busy, holds, as_it_is(model)
    found = tried(reference, path)
    assert as_it_is(model) == before
    assert found.difference is not None and 0.0 < found.difference < 0.5
    assert (found.problem, found.rates[0].slots, found.rates[0].estimated_bytes) == ("", 1, 7)
    assert (found.rates[-1].slots, found.paying.slots) == (timed, paying)
    for few, more in pairwise(found.rates):
        assert more.tokens_per_step == pytest.approx(2 * few.tokens_per_step, rel=0.3)
    settled = of(found).settled(NF4)
    assert (settled.slots, settled.pass_tokens) == (paying, 2 * found.paying.tokens_per_step)


def as_it_is(model) -> tuple:
    return model.config._attn_implementation, {name: type(layer) for name, layer in model.named_modules()}


@pytest.mark.parametrize(
    ("path", "factors", "said"),
    [(FLAT, [1.0, torch.nan], "it computes NaN"), (GROUPED, [-1.0, -1.0], "times what rounding explains")],
    ids=["NaN in the second backward pass", "wrong sign"],
)
def test_a_faulty_path_is_refused_and_says_why(monkeypatch, reference, path, factors, said):
    whole, left = FlatEngine.token_losses, iter(factors)

    def token_losses(engine, segments):
        losses = whole(engine, segments)
        if torch.is_grad_enabled():
            factor = next(left)
            for each in losses:
                each.register_hook(lambda gradient: gradient * factor)
        return losses

    monkeypatch.setattr(FlatEngine, "token_losses", token_losses)
    found = tried(reference, path)
    assert said in found.problem
    assert not found.rates


def test_memory_that_is_missing_may_be_there_another_time_and_an_engine_that_is_not_may_not(
    monkeypatch, device, reference
):
    device.holds = 0
    monkeypatch.setattr(grouped_product, "missing", lambda: "torch has no grouped_mm")
    for path, problem, may_pass in (
        (FLAT, "OutOfMemoryError: CUDA out of memory", True),
        (GROUPED, "NotImplementedError: the engine is flat, since torch has no grouped_mm", False),
    ):
        found = tried(reference, path)
        assert (found.problem, found.may_pass) == (f"it raises {problem}", may_pass)


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


PLAIN = packs.spec()
LEFT = EnginePath(engine="flat", residency="dequantised")
REFERENCE = "H100: PEFT's own layers compute, which are slower"


@pytest.mark.parametrize(
    ("base", "found", "path", "slots", "refused"),
    [
        (
            NF4, [rated(FLAT, 10, 12, 13), rated(GROUPED, 8, 15, 29, 30), rated(GROUPED, 99, problem="it lies")],
            GROUPED, 4, ("H100: flat, grouped, 4 bit is not used: it lies",),
        ),
        (FLAT.given_to(NF4), [rated(FLAT, 10), rated(GROUPED, 20)], FLAT, 1, ()),
        (FLAT.given_to(PLAIN), [rated(LEFT, 10)], LEFT, 1, ()),
        (
            GROUPED.given_to(NF4), [rated(FLAT, 10), rated(GROUPED, problem="it hung")],
            PEFT, None, ("H100: flat, grouped, 4 bit is not used: it hung", REFERENCE),
        ),
    ],
    ids=["fastest that is right", "named", "no residency without quantisation", "reference for one that is refused"],
)  # fmt: skip
def test_the_path_that_is_taken_and_its_slots(base, found, path, slots, refused):
    settled = of(*found).settled(base)
    assert (settled.path, settled.slots, settled.refused) == (path, slots, refused)


def test_tokens_of_a_pass_that_the_specification_says_stay():
    named = NF4.model_copy(update={"training": NF4.training.model_copy(update={"pass_tokens": 100})})
    test = of(rated(FLAT, 10, 12))
    assert test.settled(named).given_to(named).training.pass_tokens == 100
    assert test.settled(NF4).given_to(NF4).training.pass_tokens == 20


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


def probed(monkeypatch, doing: str, *paths: EnginePath) -> SelfTest:
    """What came of these paths, tested by the program of `killed_paths`."""
    monkeypatch.setenv("DOING", doing)
    return path_tests.tested(question(*paths), "a CPU", "killed_paths")


def test_a_probe_that_dies_costs_one_path(monkeypatch):
    test = probed(monkeypatch, "flat=die", FLAT, GROUPED)
    assert test.tried[0].problem.startswith("its process ended with exit code 3: no kernel")
    assert test.tried[1].problem == ""
    assert test.settled(NF4).path == GROUPED


def test_a_probe_that_hangs_is_ended_and_the_reference_trains(monkeypatch):
    monkeypatch.setattr(path_tests.timeouts, "SELF_TEST_PATH", 0.1)  # of a pass that never ends
    test = probed(monkeypatch, "flat=hang", FLAT)
    assert [each.problem for each in test.tried] == ["it hung: no answer within 0 s"]
    assert test.settled(NF4).path == PEFT


def test_the_program_that_is_asked_is_the_self_test():
    assert inspect.signature(path_tests.tested).parameters["program"].default == self_test.__name__
