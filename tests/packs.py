"""Packs on tiny models, for tests: `import packs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import tiny_models
import torch
from peft import PeftModel
from torch.nn import functional

from trainables.base import base_model
from trainables.contract import StepRecord
from trainables.data import dataset
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.engine import Engine, Segment
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec

FP32 = 1e-5
"""Single precision keeps about 7 digits; other shapes of the same sums differ in the last one."""
GRADIENT = 1e-4
"""A gradient has come through every layer, and each layer rounds; 6e-6 was seen, with vectors of 128 to 512 bits."""
BF16 = 2e-2
"""bfloat16 keeps about 3 digits in every activation."""


def spec(seed: int = 1, steps: int = 20, **fields) -> TrialSpec:
    """A trial on the tiny model; `fields` are those of AdapterSpec and TrainingSpec."""
    adapter = {name: value for name, value in fields.items() if name in AdapterSpec.model_fields}
    training = {name: value for name, value in fields.items() if name in TrainingSpec.model_fields}
    return TrialSpec(
        model=ModelSpec(source="tiny/model"),
        quantization=QuantizationSpec(scheme="none", compute_dtype="float32"),
        data=DataSpec(train="unused.jsonl", text="{text}"),
        adapter=AdapterSpec(**{"r": 4, "target_modules": "all-linear", **adapter}),
        training=TrainingSpec(**{"batch_size": 2, "learning_rate": 1e-2, **training}),
        steps=steps,
        seed=seed,
    )


NEIGHBOURS = [
    spec(seed=11, r=2, lora_alpha=16.0, lora_dropout=0.3, target_modules="attention-qv", batch_size=3),
    spec(seed=12, r=16, use_rslora=True, target_modules="mlp", batch_size=1, schedule="cosine"),
    spec(seed=13, r=8, lora_dropout=0.1, target_modules=("q_proj", "down_proj"), gradient_accumulation_steps=2),
]
"""Trials as different from each other as they can be."""


@lru_cache
def rows(train: int = 24, evaluation: int = 6) -> dataset.Splits:
    """Rows of random tokens, uneven lengths and scattered labels."""
    rng = np.random.default_rng(0)
    return dataset.Splits(train=_split(rng, train), eval=_split(rng, evaluation))


def train_rows(*places: int) -> list[dataset.TokenRow]:
    return [rows().train.row(place) for place in places]


def _split(rng: np.random.Generator, count: int) -> dataset.Split:
    lengths = rng.integers(6, 24, count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(2, tiny_models.VOCAB_SIZE, int(starts[-1])).astype(np.int32)
    # Labels with gaps, as chats have them of which every answer counts; each row's first token has none, its last one.
    labelled = rng.random(len(ids)) < 0.6
    labelled[starts[:-1]], labelled[starts[1:] - 1] = False, True
    return dataset.Split(ids=ids, starts=starts, labelled=labelled)


def starting_alike(row: dataset.TokenRow, count: int) -> dataset.TokenRow:
    """The row after `count` tokens that are the same for every row; some have a label, as has the next token."""
    if not count:
        return row
    start = np.arange(2, 2 + count, dtype=np.int32)
    labelled = np.concatenate([start % 3 == 0, [True], row.labelled[1:]])
    return dataset.TokenRow(np.concatenate([start, row.ids]), labelled)


def base(
    architecture: str = "llama", quantised: bool = False, dtype: torch.dtype = torch.float32, layers: int = 2
) -> base_model.Base:
    """A tiny frozen base on the CPU."""
    model = tiny_models.build(architecture, layers).to(dtype)
    if quantised:
        _quantise(model, dtype)
    model.requires_grad_(False)
    model.eval()
    model.config.use_cache = False
    model.name_or_path = "tiny/model"
    base_model.keep_gradients(model)
    return base_model.Base(model, torch.device("cpu"), dtype)


def _quantise(model, dtype: torch.dtype) -> None:
    """Puts the model's linear layers, heads excepted, into NF4 with double quantisation."""
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            layer = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=module.bias is not None,
                compute_dtype=dtype, compress_statistics=True, quant_type="nf4",
            )  # fmt: skip
            layer.load_state_dict(module.state_dict())
            model.set_submodule(name, layer.to("cpu"))


ENGINES: tuple[type[PeftEngine] | type[FlatEngine], ...] = (PeftEngine, FlatEngine)
ENGINE: type[PeftEngine] | type[FlatEngine] = PeftEngine
"""The engine of `pack`."""


def pack(loaded: base_model.Base | None = None, data: dataset.Splits | None = None) -> AdapterPack:
    """A pack of `ENGINE` on a tiny Llama."""
    return AdapterPack(ENGINE(loaded or base()), data or rows())


def add(engine: Engine, slot: int, spec: TrialSpec, seed: int = 0) -> dict[str, torch.nn.Parameter]:
    """Adds an adapter that changes the model: as it starts, its B is zero."""
    parameters = dict(engine.add(slot, spec))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if "lora_B" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return parameters


def assert_near(found: torch.Tensor, expected: torch.Tensor, within: float, name: str | None = None) -> None:
    """Fails where a number differs by more than this share of the largest one in the tensor.

    Processors sum in different orders. A sum rounds by the size of its terms, which may cancel to a small number: the
    size of that number says nothing of how exact it is.
    """
    torch.testing.assert_close(found, expected, rtol=0, atol=within * float(expected.abs().max()), msg=name)


def before_passes(monkeypatch, act: Callable[[Engine, list[Segment]], object]) -> None:
    """Has `act` run before every pass of `ENGINE`: it may raise, or spoil an adapter."""
    whole = ENGINE.token_losses

    def token_losses(self, segments):
        act(self, segments)
        return whole(self, segments)

    monkeypatch.setattr(ENGINE, "token_losses", token_losses)


def losses(pack: AdapterPack, slot: int, steps: int, with_slots: tuple[int, ...] = ()) -> list[float]:
    """The slot's train losses over `steps` steps, the other slots training beside it."""
    found = []
    for _ in range(steps):
        record = pack.step([*with_slots, slot])[slot]
        assert isinstance(record, StepRecord), record
        found.append(record.train_loss)
    return found


def peft_model(files: Mapping[str, bytes], folder: Path, **of_base) -> PeftModel:
    """What PEFT itself makes of an adapter's files, on a tiny base."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return PeftModel.from_pretrained(base(**of_base).model, folder).eval()


def plain_losses(model, row: dataset.TokenRow) -> torch.Tensor:
    """Losses of the row's labels, of a model that knows nothing of packs."""
    ids = torch.from_numpy(row.ids).long()[None]
    logits = model(input_ids=ids).logits[0, :-1][row.labelled[1:]]
    return functional.cross_entropy(logits.float(), ids[0, row.labelled], reduction="none")
