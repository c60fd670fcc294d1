"""Tells the sizes of the linear layers in a Llama-like block, and which of them an adapter changes. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.specs import AdapterSpec, ModelFacts

Shapes = Mapping[str, tuple[int, int]]
"""(in, out) of each linear layer of a block."""

_BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PRESETS: Mapping[str, Sequence[str]] = {
    "attention-qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all-linear": _BLOCK,
}


def shapes(facts: ModelFacts) -> Shapes:
    """Returns (in, out) of the linear layers of a Llama block, also with grouped-query attention."""
    head = facts.head_dim or facts.hidden_size // facts.attention_heads
    attention, shared = facts.attention_heads * head, facts.key_value_heads * head
    hidden, inner = facts.hidden_size, facts.intermediate_size
    return {
        "q_proj": (hidden, attention),
        "k_proj": (hidden, shared),
        "v_proj": (hidden, shared),
        "o_proj": (attention, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def targets(of_block: Shapes, spec: AdapterSpec) -> Sequence[str]:
    """Returns the layers of a block that an adapter changes; all of them if a name is not one of Llama's."""
    if isinstance(spec.target_modules, str):
        return _PRESETS.get(spec.target_modules, _BLOCK)
    names = {name.rpartition(".")[2] for name in spec.target_modules}
    return sorted(names) if names <= of_block.keys() else _BLOCK


def lora_parameters(facts: ModelFacts, spec: AdapterSpec) -> int:
    """Counts the trainable parameters of an adapter: r x (in + out) per adapted layer, exact for a Llama-like model."""
    of_block = shapes(facts)
    return facts.layers * spec.r * sum(sum(of_block[name]) for name in targets(of_block, spec))
