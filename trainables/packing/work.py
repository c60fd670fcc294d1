"""Counts the computing work of a sweep: floating point operations of a token, operators of a pass. Needs no torch.

A product with a matrix of n weights takes 2 n operations for each token. The backward pass through the frozen base
takes 2 n again, for gradients of activations alone; an adapter takes 4 n, since its weights have gradients too. The
head computes labelled tokens only, and attention on average half of the row. The base counts as a Llama: embeddings are
looked up, and norms, activations and dequantisation move bytes but compute little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from trainables.contract import RowShape, Work
from trainables.packing.memory import MEAN_OF_LONGEST, adapted_layers, layer_shapes, loaded_bytes, lora_parameters
from trainables.packing.pass_limits import FLAT, GROUPED, PEFT, trained_tokens
from trainables.specs import ModelFacts, TrialSpec


class _Operators(NamedTuple):
    """Operators of a layer in a training pass, forward and backward: per pass, and added by each slot."""

    of_pass: int
    of_slot: int


OPERATORS: Mapping[str, _Operators] = {
    FLAT: _Operators(45, 35),
    GROUPED: _Operators(101, 0),
    PEFT: _Operators(107, 196),
}
"""Engine -> operators that give the counts of docs/speed.md for 1 and 8 slots: flat 80 and 325, grouped 101 and 101,
peft 303 and 1,675."""
_DORA_OPERATORS: Mapping[str, int] = {FLAT: 13, PEFT: 21}
"""Engine -> operators that DoRA adds for each slot and adapted layer, counted like those above."""
FORWARD = 0.4
"""Share of a training pass's operators that a forward pass, or a recomputation, takes: 0.36 with `flat`, 0.39 with
`grouped`, 0.40 with PEFT."""


def counted(base: TrialSpec, facts: ModelFacts, rows: RowShape | None, engine: str | None) -> Work:
    """Counts the work of a GPU for trials like `base`. The adapter of `base` stands for all adapters of the space.

    Args:
        rows: shape of the rows; None assumes rows of usual length with a label on every token.
        engine: name of the engine; None assumes PEFT's, which issues more operators.
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
    # DoRA is computed one adapter after the other, grouped or not.
    is_grouped = engine == FLAT and base.training.engine == GROUPED and not base.adapter.use_dora
    operators = OPERATORS[GROUPED if is_grouped else engine or PEFT]
    of_dora = len(adapted_layers(shapes, base.adapter)) * _DORA_OPERATORS[engine or PEFT] * base.adapter.use_dora
    both_ways = facts.layers * (1 + again * FORWARD)
    return Work(
        trained=forward + blocks + 2 * attention + 4 * adapter + 2 * head * labelled + again * forward,
        evaluated=forward + head * labelled,
        generated=forward + head,
        micro_batch=base.training.batch_size,
        pass_tokens=trained_tokens(base, facts.parameters, "cuda"),
        pass_operators=round(both_ways * operators.of_pass),
        slot_operators=round(both_ways * (operators.of_slot + of_dora)),
        forward_operators=round(facts.layers * FORWARD * sum(operators)),
        loaded_bytes=loaded_bytes(facts, base.quantization),
    )
