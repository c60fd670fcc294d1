"""Counts what a sweep computes: floating point operations of a token, operators of a pass. Needs no torch.

A product with a matrix of n weights takes 2 n operations for each token. The backward pass goes through the frozen base
with gradients of activations alone, 2 n again; an adapter takes 4 n, since its weights have gradients too. The head
computes labelled tokens only, and attention on average half of the row. The base is counted as a Llama: embeddings are
looked up, and norms, activations and dequantisation move bytes but compute little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from trainables.contract import RowShape, Work
from trainables.packing.memory import MEAN_OF_LONGEST, layer_shapes, lora_parameters
from trainables.packing.pass_limits import FLAT, GROUPED, PEFT, trained_tokens
from trainables.specs import ModelFacts, TrialSpec


class _Operators(NamedTuple):
    """Operators of a layer in a training pass, forward and backward."""

    of_pass: int
    of_slot: int


OPERATORS: Mapping[str, _Operators] = {
    FLAT: _Operators(45, 35),
    GROUPED: _Operators(101, 0),
    PEFT: _Operators(107, 196),
}
"""Engine -> what docs/speed.md has of 1 and of 8 slots: 80 and 325, 101 and 101, 303 and 1,675."""
FORWARD = 0.4
"""Operators of a forward pass, and so of what is computed again, as a part of those: 0.36 with `flat`, 0.39 with
`grouped`, 0.40 with PEFT."""


def counted(base: TrialSpec, facts: ModelFacts, rows: RowShape | None, engine: str | None) -> Work:
    """Counts what a GPU computes for trials like `base`, whose adapter stands for those of the space.

    Args:
        rows: None takes rows of usual length, with a label on every token.
        engine: None takes PEFT's, which issues more operators.
    """
    mean = base.data_spec.max_length * MEAN_OF_LONGEST if rows is None else rows.mean
    labelled = 1.0 if rows is None else rows.labelled
    shapes = layer_shapes(facts)
    adapter = lora_parameters(facts, base.adapter)
    blocks = 2 * facts.layers * sum(map(math.prod, shapes.values()))
    # Two products, of queries with keys and of weights with values, over half of the row.
    attention = 2 * facts.layers * mean * shapes["q_proj"][1]
    head = 2 * facts.vocab_size * facts.hidden_size
    forward = blocks + attention + 2 * adapter
    again = float(base.training.gradient_checkpointing is True)
    operators = OPERATORS[GROUPED if engine == FLAT and base.training.engine == GROUPED else engine or PEFT]
    both_ways = facts.layers * (1 + again * FORWARD)
    return Work(
        trained=forward + blocks + 2 * attention + 4 * adapter + 2 * head * labelled + again * forward,
        evaluated=forward + head * labelled,
        generated=forward + head,
        micro_batch=base.training.batch_size,
        pass_tokens=trained_tokens(base, facts.parameters, "cuda"),
        pass_operators=round(both_ways * operators.of_pass),
        slot_operators=round(both_ways * operators.of_slot),
        forward_operators=round(facts.layers * FORWARD * sum(operators)),
    )
