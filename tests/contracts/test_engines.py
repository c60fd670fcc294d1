"""The contract of engines, held by every module of trainables.packing that ends in _engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import packs
import pytest
import torch
from packs import FP32, GRADIENT, NEIGHBOURS, add
from packs import train_rows as rows
from peft import get_peft_model

from trainables import packing
from trainables.base.base_model import Base
from trainables.data.dataset import TokenRow
from trainables.errors import InfeasibleError
from trainables.packing import pass_limits, peft_adapters, targets
from trainables.packing.engine import Answer, Answering, DropoutKey, Engine, Prompt, Segment
from trainables.packing.flat_engine import FlatEngine, uncovered
from trainables.packing.peft_engine import PeftEngine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ENGINES: dict[str, Callable[[Base], Engine]] = {"peft_engine": PeftEngine, "flat_engine": FlatEngine}
WAYS: dict[str, Callable[[Base], Engine]] = {"flat_engine, grouped": partial(FlatEngine, grouped=True)}
"""Other ways in which an engine computes."""

TRIAL = packs.spec(seed=7, r=4, lora_dropout=0.2)
DORA = packs.spec(seed=8, r=4, use_dora=True, target_modules="attention")
SPECS = dict(zip(("all-linear", "rank-2", "rslora", "names"), (TRIAL, *NEIGHBOURS), strict=True))
SPECS |= {"dora": DORA, "dora-dropout": packs.spec(seed=9, r=4, use_dora=True, lora_dropout=0.2)}
OF_SPECS = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
QUANTISED = pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])


@pytest.fixture(params=[*sorted(path.stem for path in Path(packing.__file__).parent.glob("*_engine.py")), *WAYS])
def make(request) -> Callable[[Base], Engine]:
    if request.param not in ENGINES | WAYS:
        pytest.fail(f"trainables/packing/{request.param}.py holds an engine: add its class to ENGINES in this file")
    return (ENGINES | WAYS)[request.param]


@pytest.fixture
def engine(make) -> Engine:
    return make(packs.base())


def losses(engine: Engine, *segments: Segment) -> list[list[float]]:
    with torch.no_grad():
        return [of_segment.tolist() for of_segment in engine.token_losses(segments)]


@torch.no_grad()
def plain_losses(model, given: list[TokenRow]) -> list[float]:
    return [loss for row in given for loss in packs.plain_losses(model, row).tolist()]


def crowd(engine: Engine) -> list[Segment]:
    """Three neighbours of other ranks, modules and lengths, and rows of the base alone."""
    for slot, spec in enumerate(NEIGHBOURS):
        add(engine, slot, spec, seed=slot)
    masks = DropoutKey(11, 1, 0)
    return [Segment(0, rows(0, 1, 2), masks), Segment(1, rows(3)), Segment(2, rows(4, 5)), Segment(None, rows(6))]


def gradients(engine: Engine, parameters, *passes: list[Segment]) -> dict[str, torch.Tensor]:
    for parameter in parameters.values():
        parameter.grad = None
    for segments in passes:
        torch.cat(engine.token_losses(segments)).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in parameters.items()}


ENDS = frozenset({7, 30, 60, 100, 120, 200, 250, 290})
HOW = Answering(ENDS, most=12)


def prompts(slot: int | None, *places: int, start: int = 0) -> list[Prompt]:
    """The rows at `places` up to a quarter of their tokens, after `start` tokens that all share."""
    return [
        Prompt(slot, row.ids[: start + 1 + len(row.ids) // 4], seed=place)
        for place, row in zip(places, [packs.starting_alike(row, start) for row in rows(*places)], strict=True)
    ]


def plain_answers(model, given: list[Prompt], how: Answering = HOW) -> list[Answer]:
    """Greedy answers of a model that knows nothing of engines, one prompt after the other and without a cache."""
    answers = []
    for prompt in given:
        ids, end = prompt.ids.tolist(), False
        while not end and len(ids) < len(prompt.ids) + how.most:
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            end = token in how.ends
            ids += [] if end else [token]
        answers.append(Answer(ids[len(prompt.ids) :], end))
    return answers


@pytest.fixture
def few_rows(monkeypatch) -> None:
    """Three rows are answered at the same time, and each that ends gives its place to another one."""
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 3)


@OF_SPECS
def test_parameters_are_those_that_peft_makes_from_the_seed(engine, spec):
    model = packs.base().model
    config = peft_adapters.lora_config(spec, targets.resolve(model, spec.adapter.target_modules))
    torch.manual_seed(spec.seed)
    expected = {
        name.replace(".default.", "."): parameter
        for name, parameter in get_peft_model(model, config).named_parameters()
        if ".default." in name
    }
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = engine.add(3, spec)
    assert torch.equal(torch.random.get_rng_state(), state), "it draws from the global generator"
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in found.values())


@QUANTISED
def test_rows_without_a_slot_are_left_to_the_base(make, quantised):
    given = rows(0, 1, 2)
    expected = plain_losses(packs.base(quantised=quantised).model, given)
    engine = make(packs.base(quantised=quantised))
    assert losses(engine, Segment(None, given)) == [pytest.approx(expected, abs=FP32)]
    found = losses(engine, *crowd(engine), Segment(None, given))
    assert found[-1] == pytest.approx(expected, abs=FP32)
    assert [len(of_segment) for of_segment in found[:3]] == [
        sum(row.labels for row in part) for part in (rows(0, 1, 2), rows(3), rows(4, 5))
    ]


@OF_SPECS
@QUANTISED
def test_losses_are_those_of_peft_on_the_folder_of_the_adapter(make, tmp_path, spec, quantised):
    engine = make(packs.base(quantised=quantised))
    segments = crowd(engine)
    add(engine, 9, spec)
    model = packs.peft_model(engine.adapter(9), tmp_path, quantised=quantised)
    found = losses(engine, *segments, Segment(9, rows(7, 8)))[-1]
    assert found == pytest.approx(plain_losses(model, rows(7, 8)), abs=FP32)
    assert found != pytest.approx(losses(engine, Segment(None, rows(7, 8)))[0], abs=100 * FP32)


@QUANTISED
def test_neighbours_change_neither_losses_nor_gradients(make, quantised):
    segment = Segment(9, rows(7, 8), DropoutKey(7, 3, 0))
    engine = make(packs.base(quantised=quantised))
    parameters = add(engine, 9, TRIAL)
    alone, own = losses(engine, segment)[0], gradients(engine, parameters, [segment])
    segments = crowd(engine)
    assert losses(engine, *segments, segment)[-1] == pytest.approx(alone, abs=FP32)
    among = gradients(engine, parameters, [segments[0], segment, *segments[1:]])
    for name, gradient in own.items():
        packs.assert_near(among[name], gradient, GRADIENT, name)
    assert any(gradient.abs().max() > 0.01 for gradient in own.values())


def test_gradients_of_several_passes_add_up(engine):
    parameters = add(engine, 0, packs.spec(seed=1))
    both = gradients(engine, parameters, [Segment(0, rows(0, 1))])
    after_each_other = gradients(engine, parameters, [Segment(0, rows(0))], [Segment(0, rows(1))])
    for name in both:
        packs.assert_near(after_each_other[name], both[name], GRADIENT, name)


def test_only_the_adapters_of_the_pass_get_gradients(engine):
    others, parameters = add(engine, 0, NEIGHBOURS[0]).values(), add(engine, 1, TRIAL)
    gradients(engine, parameters, [Segment(1, rows(0)), Segment(None, rows(1))])
    own = set(map(id, parameters.values()))
    for parameter in (*others, *engine.base.model.parameters()):
        assert id(parameter) in own or parameter.grad is None or not parameter.grad.any()


def test_dropout_follows_from_its_key_alone_and_there_is_none_without_a_key(engine):
    add(engine, 0, TRIAL)
    key = DropoutKey(7, 1, 0)
    keys = [key, key, DropoutKey(8, 1, 0), DropoutKey(7, 2, 0), DropoutKey(7, 1, 1), None]
    first, again, *others = (losses(engine, Segment(0, rows(0, 1), each)) for each in keys)
    assert first == again
    assert all(other != first for other in others)
    add(engine, 1, TRIAL.model_copy(update={"adapter": TRIAL.adapter.model_copy(update={"lora_dropout": 0.0})}))
    dropped, kept = losses(engine, Segment(0, rows(0, 1)), Segment(1, rows(0, 1), key))
    assert dropped == pytest.approx(kept, abs=FP32)


def test_adapters_come_and_go(engine):
    engine.remove(4)
    add(engine, 0, TRIAL)
    expected = [pytest.approx(losses(engine, Segment(0, rows(0)))[0], abs=FP32)]
    for turn in range(2):
        add(engine, 1, NEIGHBOURS[turn])
        losses(engine, Segment(1, rows(1)), Segment(0, rows(0)))
        engine.remove(1)
        engine.remove(1)
        assert losses(engine, Segment(0, rows(0))) == expected
    engine.remove(0)
    parameters = add(engine, 0, TRIAL)
    assert losses(engine, Segment(0, rows(0))) == expected
    assert all(gradient.isfinite().all() for gradient in gradients(engine, parameters, [Segment(0, rows(0))]).values())


def test_modules_that_the_base_lacks_are_refused_and_leave_the_slot_free(engine):
    with pytest.raises(InfeasibleError, match="c_attn"):
        engine.add(0, packs.spec(target_modules=("c_attn",)))
    engine.remove(0)
    add(engine, 0, TRIAL)
    assert torch.tensor(losses(engine, Segment(0, rows(0)))[0]).isfinite().all()


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2", "opt", "gemma3_text", "phi3", "mixtral"])
def test_other_architectures_compute_and_answer_the_same_alone_and_among_others(make, architecture):
    base = packs.base(architecture)
    if make is not PeftEngine and uncovered(base) is not None:
        pytest.skip(f"{architecture} is left to the reference engine")
    engine = make(base)
    for slot, seed in enumerate((1, 2)):
        add(engine, slot, packs.spec(seed=seed, target_modules="attention", lora_dropout=0.1))
    segment, other = Segment(0, rows(0, 1), DropoutKey(1, 1, 0)), Segment(1, rows(2), DropoutKey(2, 1, 0))
    alone = losses(engine, segment)[0]
    assert losses(engine, other, segment)[1] == pytest.approx(alone, abs=FP32)
    given = [*prompts(0, 0, 1), *prompts(None, 2), *prompts(1, 3, 4)]
    answers = [engine.generate([prompt], HOW)[0] for prompt in given]
    assert engine.generate(given, HOW) == answers
    assert plain_answers(packs.base(architecture).model, given[2:3]) == answers[2:3]


@lru_cache
def answers_of_peft(slot: int | None, quantised: bool, files: tuple[tuple[str, bytes], ...]) -> list[Answer]:
    """What PEFT answers on the folder of an adapter, which is the same in all engines, or the base without files."""
    with TemporaryDirectory() as folder:
        of_base = packs.base(quantised=quantised).model
        model = packs.peft_model(dict(files), Path(folder), quantised=quantised) if files else of_base
        return plain_answers(model, prompts(slot, *range(8)))


@QUANTISED
def test_answers_among_others_are_those_of_peft_on_the_folder_of_the_adapter(make, few_rows, quantised):
    engine = make(packs.base(quantised=quantised))
    crowd(engine)
    given = [prompts(slot, *range(8)) for slot in (0, 1, 2, None)]
    found = engine.generate([prompt for of_slot in zip(*given, strict=True) for prompt in of_slot], HOW)
    for place, slot in enumerate((0, 1, 2, None)):
        files = () if slot is None else tuple(engine.adapter(slot).items())
        assert answers_of_peft(slot, quantised, files) == found[place::4]
    assert len({tuple(answer.ids) for answer in found}) > 24, "the adapters and the prompts matter"
    assert 4 < sum(answer.is_ended for answer in found) < 28


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_neighbours_change_no_answer(make, monkeypatch, temperature):
    engine = make(packs.base())
    crowd(engine)
    how = HOW._replace(temperature=temperature)
    mixed = [prompt for slot in (2, None, 0, 1) for prompt in prompts(slot, *range(4), start=6 * (slot == 0))]
    together = engine.generate(mixed, how)
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 3)
    assert engine.generate(mixed[::-1], how)[::-1] == together
    assert [engine.generate([prompt], how)[0] for prompt in mixed] == together
    assert engine.generate([], how) == []


def test_draws_follow_from_the_seed_of_the_row_and_are_those_of_the_reference(make):
    engine, reference = make(packs.base()), PeftEngine(packs.base())
    crowd(engine), crowd(reference)
    how = Answering(frozenset(), most=6, temperature=1.0)
    given = [prompts(1, 0)[0]._replace(seed=seed) for seed in (3, 4, 3)]
    first, other, again = engine.generate(given, how)
    assert first == again != other
    assert [first, other, again] == reference.generate(given, how)
    assert first != engine.generate(given, how._replace(temperature=0.0))[0]


def test_answers_may_be_empty_or_cut_off_and_prompts_a_single_token(engine):
    crowd(engine)
    (prompt,) = prompts(1, 3)
    single = prompt._replace(ids=prompt.ids[:1])
    (whole,) = engine.generate([prompt], Answering(frozenset(), most=9))
    assert (len(whole.ids), whole.is_ended) == (9, False)
    ends = frozenset(whole.ids[:1])
    empty, of_single = engine.generate([prompt, single], Answering(ends, most=9))
    assert empty == Answer([], is_ended=True)
    assert [of_single] == engine.generate([single], Answering(ends, most=9))
    assert of_single.ids
    assert engine.generate([prompt], Answering(ends, most=1)) == [Answer([], is_ended=True)]


def test_what_the_folder_of_a_model_says_of_sampling_changes_no_answer(engine):
    crowd(engine)
    expected = engine.generate(prompts(1, *range(4)), HOW)
    own = engine.base.model.generation_config
    own.update(do_sample=True, temperature=9.0, repetition_penalty=7.0, eos_token_id=expected[0].ids[0], max_length=3)
    assert engine.generate(prompts(1, *range(4)), HOW) == expected
    assert engine.base.model.generation_config is own


def test_training_goes_on_as_if_nothing_had_been_answered(engine):
    parameters = add(engine, 9, TRIAL)
    segments = [*crowd(engine), Segment(9, rows(7, 8), DropoutKey(7, 3, 0))]
    before = gradients(engine, parameters, segments)
    answers = engine.generate(prompts(9, 0, 1), HOW)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before[name])
    assert all(torch.equal(again, before[name]) for name, again in gradients(engine, parameters, segments).items())
    assert engine.generate(prompts(9, 0, 1), HOW) == answers


def test_an_engine_answers_again_after_it_has_failed(engine):
    crowd(engine)
    given = prompts(0, *range(4))
    expected = engine.generate(given, HOW)
    calls = iter(range(3))

    def fail(*_inputs):
        if next(calls, None) is None:
            raise torch.OutOfMemoryError("out of memory")

    hook = engine.base.model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        engine.generate(given, HOW)
    hook.remove()
    assert engine.generate(given, HOW) == expected


def test_a_nan_in_one_adapter_changes_no_answer_of_another(make, few_rows):
    engine = make(packs.base())
    crowd(engine)
    healthy = [prompt for slot in (1, 2) for prompt in prompts(slot, *range(4))]
    expected = engine.generate(healthy, HOW)
    # In the first slot, so that others get the places that its rows leave.
    engine.remove(0)
    for parameter in engine.add(0, packs.spec(seed=1)).values():
        parameter.data.fill_(torch.nan)
    sick = prompts(0, *range(4), start=9)
    assert engine.generate([*sick, *healthy], HOW)[4:] == expected
