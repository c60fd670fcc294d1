"""Sizes of models that everybody knows, for tests: `import known_models`."""

from __future__ import annotations

from trainables.specs import ModelFacts


def _facts(parameters: int, layers: int, hidden: int, inner: int, vocab: int, heads: tuple[int, int]) -> ModelFacts:
    return ModelFacts(
        parameters=parameters,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        vocab_size=vocab,
        attention_heads=heads[0],
        key_value_heads=heads[1],
    )


SMOLLM2 = _facts(134_515_008, 30, 576, 1536, 49_152, (9, 3))
LLAMA_1B = _facts(1_235_814_400, 16, 2048, 8192, 128_256, (32, 8))
LLAMA_3B = _facts(3_212_749_824, 28, 3072, 8192, 128_256, (24, 8))
LLAMA_8B = _facts(8_030_261_248, 32, 4096, 14_336, 128_256, (32, 8))
LLAMA_70B = _facts(70_553_706_496, 80, 8192, 28_672, 128_256, (64, 8))
