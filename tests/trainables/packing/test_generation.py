"""Rows give their places to others, passes stay within their bounds, and draws are draws from the softmax."""

from __future__ import annotations

from collections import Counter

import numpy as np
import packs
import pytest
import tiny_models
import torch

from trainables.data.dataset import TokenRow
from trainables.packing import generation, pass_limits
from trainables.packing.batches import FlatBatch, pad, padded_losses
from trainables.packing.engine import Answer, Answering, Prompt
from trainables.packing.flat_attention import Next, Start

CPU = torch.device("cpu")
END = 0
VOCABULARY = 400


def prompt(length: int, answer: int, slot: int | None = None, first: int = 200) -> Prompt:
    """A prompt whose answer by `Counting` has `answer` tokens."""
    return Prompt(slot, np.array([*range(first, first + length - 1), answer + 1]), seed=0)


class Counting:
    """In place of a model: after the number n comes n - 1, until the end token 0. Notes the size of each pass."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.stepped: list[int] = []
        self.slots: list[list[int | None]] = []

    def __call__(self, batch: FlatBatch, pieces: Start | Next) -> torch.Tensor:
        tokens = batch.ids[0, batch.keep]
        (self.stepped if isinstance(pieces, Next) else self.started).append(batch.ids.shape[1])
        self.slots.append([span.segment.slot for span in batch.spans])
        assert [batch.spans[0].start, batch.spans[-1].stop] == [0, batch.ids.shape[1]]
        return torch.nn.functional.one_hot(tokens - 1, VOCABULARY).float()


def answered(prompts: list[Prompt], most: int = 50) -> tuple[list[Answer], Counting]:
    model = Counting()
    return generation.answer(prompts, Answering(frozenset({END}), most), model, CPU), model


def test_each_prompt_gets_its_own_answer_whatever_ends_when(monkeypatch):
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 4)
    lengths = [7, 0, 3, 60, 1, 0, 12, 5, 2, 9, 50]
    found, _ = answered([prompt(2 + place % 3, length, place % 2) for place, length in enumerate(lengths)])
    for answer, length in zip(found, lengths, strict=True):
        assert answer == Answer(list(range(length, 0, -1))[:50], is_ended=length < 50)


def test_a_row_that_ends_gives_its_place_to_one_that_waits_and_places_are_filled_by_groups(monkeypatch):
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 4)
    _, model = answered([prompt(2, length) for length in [40, *[10] * 12]])
    # One long answer beside three lanes of four short ones: 40 steps, and none more.
    assert (len(model.stepped), max(model.stepped)) == (40, 4)
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 16)
    _, model = answered([prompt(1, 3 + place % 5) for place in range(64)])
    assert (model.started[0], sum(model.started), max(model.stepped)) == (16, 64, 16)
    assert min(model.started[:-1]) >= 16 // pass_limits.REFILLED


def test_a_batch_of_a_plain_model_goes_on_without_the_rows_that_have_ended() -> None:
    model, how = packs.base().model, Answering(frozenset(range(0, tiny_models.VOCAB_SIZE, 9)), most=16)
    rng = np.random.default_rng(0)
    given = [rng.integers(1, tiny_models.VOCAB_SIZE, 3 + place) for place in range(16)]
    passed: list[tuple[int, int]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _module, ids, _out: passed.append(ids[0].shape))
    found = generation.generate_plain(model, given, [0] * 16, how, CPU)
    hook.remove()
    lengths = sorted(len(answer.ids) + answer.is_ended for answer in found)
    assert lengths[0] < lengths[8] < lengths[-1], "answers end at different tokens"
    # Prompts pass once; after that each pass has one token of each row, and at most twice as many rows as still answer.
    assert [tokens for _, tokens in passed] == [18, *[1] * (lengths[-1] - 1)]
    for place, (rows, _) in enumerate(passed):
        assert rows <= 2 * sum(length > place for length in lengths)
    assert [generation.generate_plain(model, [ids], [0], how, CPU)[0] for ids in given] == found


def test_passes_have_no_more_tokens_than_evaluations_and_the_cache_no_more_than_its_bound(monkeypatch):
    monkeypatch.setitem(pass_limits.SHARED_TOKENS, "cpu", 100)
    monkeypatch.setitem(pass_limits.CACHED_TOKENS, "cpu", 480)
    # Nothing is shared, as each prompt has another slot.
    _, model = answered([prompt(30, 9, slot) for slot in range(11)], most=50)
    assert max(model.started) == 90
    assert max(model.stepped) == 480 // (30 + 50)
    _, model = answered([prompt(150, 9)], most=500)
    assert model.started == [150]


def test_adapters_follow_each_other(monkeypatch):
    monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", 4)
    _, model = answered([prompt(3, 9, slot) for _ in range(4) for slot in (2, 0, None)])
    assert model.slots[0] == [None]
    assert max(map(len, model.slots)) == 1


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_draws_are_from_the_softmax_and_each_place_has_draws_of_its_own(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = [(seed, 7) for seed in range(4000)]
    drawn = Counter(generation.scores(logits.expand(4000, -1), temperature, draws).argmax(dim=-1).tolist())
    for token, expected in enumerate((logits / temperature).softmax(0).tolist()):
        # Four standard deviations of a share of 4,000 draws.
        assert drawn[token] / 4000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)
    alike = torch.zeros(1, 1000)
    assert len({int(generation.scores(alike, temperature, [(3, place)]).argmax()) for place in range(20)}) > 15


@pytest.mark.parametrize(("kind", "most"), [("llama", None), ("gpt2", 4), ("mistral", 4)])
def test_labels_are_as_likely_as_in_rows_that_are_whole(monkeypatch, kind, most):
    """Also where the labels of one question are more than a pass takes, and where a prompt is one token."""
    model = tiny_models.build(kind).eval()
    if most is not None:
        monkeypatch.setitem(pass_limits.ANSWERED_ROWS, "cpu", most)
    draw = np.random.default_rng(0)
    rows = []
    for length in (7, 1, 12, 7, 12, 7):
        prompt = draw.integers(3, 60, length)
        ids = [np.append(prompt, draw.integers(3, 60, count)).astype(np.int32) for count in (1, 3, 2, 5, 2)]
        rows.append([TokenRow(each, np.arange(len(each)) >= length) for each in ids])
    told: list[int] = []
    with torch.no_grad():
        found = generation.rank_plain(model, rows, CPU, told.extend)
        whole = [padded_losses(model, pad([row]), CPU).double().sum().item() for own in rows for row in own]
    assert found == pytest.approx(whole, abs=1e-4)
    assert sorted(told) == list(range(30))
