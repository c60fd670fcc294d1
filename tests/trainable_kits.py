"""What the contract tests need of each trainable: `import trainable_kits`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import packs
import tiny_models

from trainables import toy
from trainables.contract import Pack
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec


@dataclass(frozen=True)
class Kit:
    """What the contract tests need to know of a trainable."""

    pack: Callable[[], Pack]
    """A new pack, with one base and the same data for each call."""
    trial: TrialSpec
    neighbour: TrialSpec
    """Another trial, as different from `trial` as it can be."""
    diverging: TrialSpec
    """Its loss stops being finite within STEPS steps."""
    infeasible: TrialSpec
    base: TrialSpec
    """A base specification whose files exist."""
    tolerance: float
    """How far the same numbers may be apart."""


STEPS = 6


def toy_kit(folder: Path) -> Kit:
    def trial(r: int = 16, learning_rate: float = 3e-4, seed: int = 1) -> TrialSpec:
        adapter, training = AdapterSpec(r=r), TrainingSpec(learning_rate=learning_rate)
        return TrialSpec(trainable="toy", adapter=adapter, training=training, steps=20, seed=seed)

    return Kit(
        pack=lambda: toy.open_pack(trial(), b"", folder),
        trial=trial(),
        neighbour=trial(r=4, learning_rate=5e-3, seed=2),
        diverging=trial(learning_rate=0.05),
        infeasible=trial(r=300),
        base=trial(),
        tolerance=0.0,
    )


def qlora_kit(folder: Path) -> Kit:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}."} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = TrialSpec(
        model=ModelSpec(source=str(tiny_models.save("llama", folder / "model"))),
        quantization=QuantizationSpec(scheme="none", compute_dtype="float32"),
        data=DataSpec(
            train=str(folder / "rows.jsonl"), prompt="{question}", completion="{answer}", max_length=64, eval_examples=3
        ),
    )
    return Kit(
        pack=packs.pack,
        trial=packs.spec(seed=1, lora_dropout=0.2, gradient_accumulation_steps=2),
        neighbour=packs.spec(seed=2, r=16, target_modules="mlp", use_rslora=True, batch_size=3, schedule="cosine"),
        diverging=packs.spec(seed=3, learning_rate=1e30, warmup_ratio=0.0),
        infeasible=packs.spec(seed=4, target_modules=("c_attn",)),
        base=base,
        tolerance=packs.FP32,
    )


FACTORIES: dict[str, Callable[[Path], Kit]] = {"qlora": qlora_kit, "toy": toy_kit}
