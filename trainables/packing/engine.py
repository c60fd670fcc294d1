"""Defines the engine, which computes the losses of adapters on a frozen base. The pack trains the adapters.

A pack owns the rows, optimizer, learning rates, clipping and progress of each trial. An engine owns the adapters'
tensors and their shared pass. The trial alone decides its dropout masks, whichever engine applies them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from trainables.base.base_model import Base
from trainables.data.dataset import TokenRow
from trainables.specs import TrialSpec


class DropoutKey(NamedTuple):
    """Identifies, together with a layer, the dropout mask of one adapter in one pass."""

    seed: int
    step: int
    micro_batch: int


def dropout_mask(
    key: DropoutKey, layer: int, p: float, shape: tuple[int, int, int], device: torch.device
) -> torch.Tensor:
    """Returns the factors of one layer's inputs, 0 or 1 / (1 - p), in fp32.

    Args:
        layer: place of the layer among the layers of the adapter.
        p: probability to drop an entry.
        shape: rows, tokens of the longest row, features.
        device: the device of the factors. Other kinds of device draw other masks.
    """
    generator = torch.Generator(device=device)
    text = f"{key.seed} {key.step} {key.micro_batch} {layer}".encode()
    generator.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()))
    uniform = torch.rand(shape, generator=generator, device=device)
    return (uniform >= p).to(torch.float32) / (1.0 - p)


class Segment(NamedTuple):
    """The rows of one adapter in a shared pass."""

    slot: int | None
    """The slot of the adapter; None for the base without an adapter."""
    rows: Sequence[TokenRow]
    dropout: DropoutKey | None = None
    """Key of the dropout masks; None drops nothing."""

    @property
    def labels(self) -> int:
        """Number of labelled tokens."""
        return sum(row.labels for row in self.rows)

    @property
    def tokens(self) -> int:
        """Number of tokens, padding not counted."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)


class Prompt(NamedTuple):
    """A row to answer with one adapter."""

    slot: int | None
    """The slot of the adapter; None for the base without an adapter."""
    ids: np.ndarray
    """(length,) int32: the tokens before the answer, as in training."""
    seed: int
    """Seed of the row's draws, if tokens are drawn."""


class Answer(NamedTuple):
    """The generated tokens after a prompt."""

    ids: list[int]
    """Token ids without the end token."""
    is_ended: bool
    """Whether an end token came; else the answer was cut off."""


class Answering(NamedTuple):
    """How answers are generated."""

    ends: frozenset[int]
    """The tokens that end an answer, as in training; see `Questions.ends`."""
    most: int
    """The most tokens of an answer."""
    temperature: float = 0.0
    """0 takes the most likely token. Else the next token has the largest sum of log-probability / temperature and
    Gumbel noise, which each row draws with its own seed on the CPU."""


class Engine(Protocol):
    """Holds an adapter per slot and computes the token losses of several adapters in one pass.

    An adapter's losses and gradients do not depend on the other segments of the pass. Not thread-safe, except for the
    passes that `parallel_passes` allows. The contract tests (tests/contracts/test_engines.py) run over every engine.
    """

    base: Base
    parallel_passes: int
    """Passes that may run at the same time, each in one thread, without a slot in common."""

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """Puts a new adapter into a free slot. The trial's seed alone decides its initial values.

        Returns:
            Its trainable parameters in fp32. Names, order and shapes are those of PEFT's state dict for the same spec,
            so a snapshot of one engine can be restored in another.

        Raises:
            InfeasibleError: the spec's target modules match no layer of the base.
        """

    def remove(self, slot: int) -> None:
        """Frees the slot, even after an `add` that raised. Does nothing for a free slot."""

    def token_losses(self, segments: Sequence[Segment]) -> list[torch.Tensor]:
        """Runs one forward pass over `segments`, with at most one segment per slot.

        Returns:
            For each segment the negative log-probabilities of its labelled tokens, row after row: (labels,), float32.
            A backward pass from them adds to `grad` of the adapters' parameters and to nothing else. It comes before
            the next call of this method in the same thread.
        """

    def generate(self, prompts: Sequence[Prompt], how: Answering) -> list[Answer]:
        """Answers prompts of several adapters together, with a cache of keys and values.

        An answer does not depend on the other prompts. Do not call this while another thread calls `token_losses`.

        Returns:
            An answer for each prompt, in order.
        """

    def pass_tokens(self, segments: Sequence[Segment]) -> int:
        """Returns the tokens that a pass over `segments` computes, padding included."""

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """Returns the PEFT folder of the slot's present adapter: file name -> content."""
