"""Answers prompts token by token, several rows at a time. New rows take the places of rows that have ended.

The flat engine calls `answer`. PEFT's engine, and callers with one model and no engine, call `generate_plain`, which
leaves the work to transformers' own `generate`. Both choose tokens by `scores`. `rank_plain` computes how likely given
answers are, for one model without an engine.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import GenerationConfig, LogitsProcessor

from trainables.data.dataset import TokenRow
from trainables.packing.batches import FlatBatch, Span, flatten, pad, padded_losses
from trainables.packing.engine import Answer, Answering, Prompt, Segment
from trainables.packing.flat_attention import Cache, Next, Start
from trainables.packing.pass_limits import ANSWERED_ROWS, CACHED_TOKENS, REFILLED, SHARED_TOKENS

Compute = Callable[[FlatBatch, Start | Next], torch.Tensor]
"""Returns the logits at the tokens that a sequence keeps: (tokens, vocabulary), float32."""
Answered = Callable[[int, int], None]
"""Receives at each token how many answers of a batch are complete, and how many tokens each of the others has."""


def rows_at_once(device: torch.device, tokens: int) -> int:
    """Returns how many rows of at most `tokens` tokens may be answered at the same time; at least 1."""
    return max(1, min(ANSWERED_ROWS[device.type], CACHED_TOKENS[device.type] // tokens))


def scores(logits: torch.Tensor, temperature: float, draws: Iterable[tuple[int, int]]) -> torch.Tensor:
    """Returns scores whose largest entry is the next token of each row: (rows, vocabulary), float32.

    With a temperature, the largest sum of logit / temperature and Gumbel noise is a draw from the softmax (Gumbel,
    Statistical Theory of Extreme Values, 1954). So a draw depends on the row alone, whatever else is in the batch.

    Args:
        logits: (rows, vocabulary), float32.
        temperature: see `Answering`.
        draws: for each row, its seed and the number of tokens answered so far.
    """
    if temperature == 0:
        return logits
    noise = torch.stack([_gumbel(seed, place, logits.shape[1]) for seed, place in draws])
    return logits / temperature + noise.to(logits.device)


def _gumbel(seed: int, place: int, count: int) -> torch.Tensor:
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(hashlib.blake2b(f"{seed} {place}".encode(), digest_size=7).digest()))
    return -torch.empty(count).exponential_(generator=generator).log()


# The flat engine


@dataclass
class _Row:
    """A prompt that is being answered."""

    place: int
    """Place of the prompt among all prompts."""
    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    """The answer so far."""
    is_ended: bool = False


def answer(prompts: Sequence[Prompt], how: Answering, compute: Compute, device: torch.device) -> list[Answer]:
    """Returns the answer of each prompt, in order. For use without gradients.

    Prompts of one adapter follow each other, the longest first, so that a pass has few adapters and rows of similar
    lengths.

    Args:
        prompts: for any adapters.
        compute: passes a sequence through the model.
    """
    answers = _Answers(prompts, how, compute, device).run()
    return [answers[place] for place in range(len(prompts))]


def _first(slot: int | None) -> int:
    """Returns a sort key that puts the base before the slots."""
    return -1 if slot is None else slot


class _Answers:
    """The rows that are being answered, and the rows that wait."""

    def __init__(self, prompts: Sequence[Prompt], how: Answering, compute: Compute, device: torch.device) -> None:
        rows = [_Row(place, prompt) for place, prompt in enumerate(prompts)]
        self._waiting = deque(sorted(rows, key=lambda row: (_first(row.prompt.slot), -len(row.prompt.ids))))
        self._how, self._compute, self._device = how, compute, device
        tokens = max((len(prompt.ids) for prompt in prompts), default=0) + how.most
        self._most = rows_at_once(device, tokens)
        self._rows: list[_Row] = []
        """The rows being answered, in the order of the cache."""
        self._cache = Cache(min(self._most, len(prompts)), tokens)
        self._answers: dict[int, Answer] = {}
        """Place of the prompt -> answer."""

    def run(self) -> dict[int, Answer]:
        """Answers all rows; returns place of the prompt -> answer."""
        while self._waiting or self._rows:
            free = self._most - len(self._rows)
            if self._waiting and (free * REFILLED >= self._most or not self._rows):
                self._start(free)
            else:
                self._step()
            self._drop()
        return self._answers

    def _start(self, free: int) -> None:
        """Passes new prompts through the model: at most `free`, with at most SHARED_TOKENS tokens, or a single one."""
        new: list[_Row] = []
        left = SHARED_TOKENS[self._device.type]
        while self._waiting and len(new) < free and (not new or len(self._waiting[0].prompt.ids) <= left):
            new.append(self._waiting.popleft())
            left -= len(new[-1].prompt.ids)
        segments = [
            Segment(slot, [_to_predict(row.prompt.ids) for row in rows])
            for slot, rows in groupby(new, lambda row: row.prompt.slot)
        ]
        batch = flatten(segments, self._device)
        logits_RV = self._compute(batch, Start(batch.pieces, self._cache))
        self._cache.lengths += [len(row.prompt.ids) for row in new]
        self._rows += new
        self._choose(new, logits_RV)

    def _step(self) -> None:
        """Passes the latest token of each row through the model."""
        order = sorted(range(len(self._rows)), key=lambda place: _first(self._rows[place].prompt.slot))
        rows = [self._rows[place] for place in order]
        places, lengths = torch.tensor(order), torch.tensor(self._cache.lengths)
        batch = FlatBatch(
            ids=torch.tensor([[row.ids[-1] for row in rows]]).to(self._device),
            positions=lengths[places][None].to(self._device),
            pieces=(),
            keep=torch.arange(len(rows)).to(self._device),
            answers=torch.empty(0),
            spans=_spans(rows),
        )
        step = Next(self._cache, lengths.to(self._device), places.argsort().to(self._device))
        logits_RV = self._compute(batch, step)
        self._cache.lengths = [length + 1 for length in self._cache.lengths]
        self._choose(rows, logits_RV)

    def _choose(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        draws = [(row.prompt.seed, len(row.ids)) for row in rows]
        tokens = scores(logits, self._how.temperature, draws).argmax(dim=-1).tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.is_ended = token in self._how.ends
            if not row.is_ended:
                row.ids.append(token)

    def _drop(self) -> None:
        """Takes out the rows whose answer is complete. The last row moves to the freed place."""
        for place in reversed(range(len(self._rows))):
            row = self._rows[place]
            if row.is_ended or len(row.ids) == self._how.most:
                self._answers[row.place] = Answer(row.ids, row.is_ended)
                self._cache.drop(place)
                self._rows[place] = self._rows[-1]
                self._rows.pop()


def _to_predict(ids: np.ndarray) -> TokenRow:
    """Returns the prompt as a row with one label: a placeholder for the token after the prompt."""
    return TokenRow(np.append(ids, 0), np.arange(len(ids) + 1) == len(ids))


def _spans(rows: Sequence[_Row]) -> tuple[Span, ...]:
    """Returns the spans of rows of one token, sorted by their slots."""
    spans, start = [], 0
    for slot, of_slot in groupby(rows, lambda row: row.prompt.slot):
        stop = start + len(list(of_slot))
        spans.append(Span(Segment(slot, ()), start, stop, None))
        start = stop
    return tuple(spans)


# Models of transformers and PEFT


def generate_plain(
    model: Any,
    prompts: Sequence[np.ndarray],
    seeds: Sequence[int],
    how: Answering,
    device: torch.device,
    route: Callable[[Sequence[int]], Answered | None] = lambda _places: None,
) -> list[Answer]:
    """Returns the answer of each prompt, in order, by transformers' own `generate` in batches padded on the left.

    A batch goes on without its ended rows whenever these are half of the batch: no row waits for a long answer.

    Args:
        model: a model of transformers, with or without an adapter.
        prompts: the tokens of each prompt, (length,).
        seeds: the seed of each prompt's draws.
        route: called with the places of a batch's prompts before the batch passes through the model, and again with
            the places that are left when others have ended; what it returns receives the progress of the batch.
    """
    answers: dict[int, Answer] = {}
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    waiting = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    while waiting:
        count = rows_at_once(device, len(prompts[waiting[0]]) + how.most)
        places, waiting = waiting[:count], waiting[count:]
        batch = _Batch.of([prompts[place] for place in places], device)
        while places:
            draws = _Draws([seeds[place] for place in places], how, batch.prompt, route(places))
            found = _generate(inner, batch, how, draws)
            answers |= zip(places, found, strict=True)
            left = [row for row, each in enumerate(found) if not each.is_ended and len(each.ids) < how.most]
            places = [places[row] for row in left]
            batch.keep(left)
    return [answers[place] for place in range(len(prompts))]


@dataclass
class _Batch:
    """Rows that are answered together, padded on the left, with what has been computed of them."""

    ids: torch.Tensor
    mask: torch.Tensor
    prompt: int
    """Tokens of a row before its answer, padding included."""
    cache: Any = None
    """The keys and values of all tokens but the last one; None before the first pass."""

    @classmethod
    def of(cls, prompts: Sequence[np.ndarray], device: torch.device) -> _Batch:
        """Pads prompts, the longest first."""
        longest = len(prompts[0])
        ids_BT, mask_BT = (torch.zeros((len(prompts), longest), dtype=torch.long) for _ in range(2))
        for row, prompt in enumerate(prompts):
            ids_BT[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask_BT[row, longest - len(prompt) :] = 1
        return cls(ids_BT.to(device), mask_BT.to(device), longest)

    def keep(self, rows: Sequence[int]) -> None:
        """Drops the other rows, so that none of their tokens is computed any more."""
        kept = torch.tensor(rows, dtype=torch.long)  # on the CPU: the cache of a spread base lies on several GPUs
        self.ids = self.ids[kept]
        self.mask = functional.pad(self.mask[kept], (0, self.ids.shape[1] - self.mask.shape[1]), value=1)
        if hasattr(self.cache, "batch_select_indices"):
            self.cache.batch_select_indices(kept)
        else:
            self.cache = None  # a cache of another kind: the rows pass through the model again


def _generate(model: Any, batch: _Batch, how: Answering, draws: _Draws) -> list[Answer]:
    """Goes on with the answers until half of the rows have ended; returns them as far as they are."""
    # The model's own configuration would fill in settings that a given configuration leaves open, such as penalties of
    # repetition (generation/utils.py, _prepare_generation_config, 5.24). So it is put aside.
    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=how.most - (batch.ids.shape[1] - batch.prompt), do_sample=False, use_cache=True,
        eos_token_id=sorted(how.ends), pad_token_id=0, return_dict_in_generate=True,
    )  # fmt: skip
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # before 5.24
    try:
        made = model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            logits_processor=[draws],
            stopping_criteria=[draws.are_half_ended],
            **({} if batch.cache is None else {name: batch.cache}),
        )
    finally:
        model.generation_config = own
    batch.ids, batch.cache = made.sequences, getattr(made, name, None)
    return [_cut(ids, how.ends) for ids in made.sequences[:, batch.prompt :].tolist()]


class _Draws(LogitsProcessor):
    """Adds the noise of each row's own draws (see `scores`), and tells how far the answers have come."""

    def __init__(self, seeds: Sequence[int], how: Answering, prompt: int, tell: Answered | None) -> None:
        self._seeds, self._how, self._prompt, self._tell = seeds, how, prompt, tell

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        done = input_ids.shape[1] - self._prompt
        if self._tell is not None:
            self._tell(int(self._ended(input_ids).sum()), done)
        return scores(logits, self._how.temperature, [(seed, done) for seed in self._seeds])

    def are_half_ended(self, input_ids: torch.Tensor, _scores: object) -> torch.Tensor:
        """Tells each row to stop, or none (transformers/generation/stopping_criteria.py, 5.24)."""
        ended = self._ended(input_ids)
        return (2 * ended.sum() >= len(ended)).expand(len(ended))

    def _ended(self, input_ids: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor(sorted(self._how.ends), device=input_ids.device)
        return torch.isin(input_ids[:, self._prompt :], ends).any(dim=1)


@torch.no_grad()
def rank_plain(
    model: Any,
    rows: Sequence[Sequence[TokenRow]],
    device: torch.device,
    route: Callable[[Sequence[int]], object] = lambda _places: None,
) -> list[float]:
    """Returns the negative log-probability of the labelled tokens of each row, in order.

    The common start of a question's rows goes through the model once, together with the starts of other questions of
    the same length, so that nothing is padded on the left.

    Args:
        model: a model of transformers, with or without an adapter.
        rows: the rows of each question, equally many. They are the same up to their first labelled token.
        route: called with the places of a pass's rows before the rows pass through the model.
    """
    losses = [0.0] * sum(map(len, rows))
    for start, asked, most in _of_equal_starts(rows, device):
        before = _read(model, [rows[place][0].ids[:start] for place in asked], device) if start else {}
        chosen = [
            (number, place * len(rows[place]) + label, TokenRow(row.ids[start:], row.labelled[start:]))
            for number, place in enumerate(asked) for label, row in enumerate(rows[place])
        ]  # fmt: skip
        for first in range(0, len(chosen), most):
            numbers, places, ends = zip(*chosen[first : first + most], strict=True)
            route(places)
            arguments = _for_rows(before, torch.tensor(numbers, device=device))
            found = padded_losses(model, pad(ends), device, **arguments).cpu().double()
            for place, piece in zip(places, found.split([row.labels for row in ends]), strict=True):
                losses[place] = float(piece.sum())
    return losses


def _of_equal_starts(rows: Sequence[Sequence[TokenRow]], device: torch.device) -> Iterator[tuple[int, list[int], int]]:
    """Yields the length of a common start, the places of questions to read together, and the most rows of a pass."""
    starts = [int(own[0].labelled.argmax()) - 1 for own in rows]  # the last token in common predicts the first label
    for start, same in groupby(sorted(range(len(rows)), key=starts.__getitem__), starts.__getitem__):
        waiting = list(same)
        most = rows_at_once(device, max(len(row.ids) for place in waiting for row in rows[place]))
        count = max(1, most // len(rows[waiting[0]]))
        yield from ((start, waiting[first : first + count], most) for first in range(0, len(waiting), count))


def _read(model: Any, prompts: Sequence[np.ndarray], device: torch.device) -> dict[str, Any]:
    """Returns the keys and values of prompts of one length, under the name of the model's argument for them."""
    ids = torch.from_numpy(np.stack(prompts)).long().to(device)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    name = "cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values"  # before 5.24
    return {name: inner.base_model(input_ids=ids, use_cache=True)[name]}


def _for_rows(before: Mapping[str, Any], numbers: torch.Tensor) -> dict[str, Any]:
    """Returns the model's arguments for rows that begin with the prompts of these numbers. Use them once."""
    own = copy.deepcopy(before)
    for cache in own.values():
        cache.reorder_cache(numbers)
    return {**own, "use_cache": True} if own else {}


def _cut(ids: Sequence[int], ends: frozenset[int]) -> Answer:
    """Returns the answer in new tokens: the tokens before the first end token."""
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    return Answer(list(ids[:end]), end is not None)
