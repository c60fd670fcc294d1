"""A trial's adapter on plain bitsandbytes (the lines of docs/models.md) against the base that the product computes on.

    python -m tests.benchmarks.plain_bitsandbytes results/quickstart/trials/54804d1d60fa/best-000018/adapter

Both bases are NF4 of SmolLM2-135M in float32, with the same adapter by plain PEFT, on rows of the quickstart's
`data.test`. On a CPU with avx512_bf16 bitsandbytes repacks its weights and computes with another kernel; the product
does not let it. Elsewhere the two agree.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GgufConfig

from cluster.devices import cache
from sweeps.config import load
from trainables.base import base_model, model_source
from trainables.data import dataset
from trainables.packing.batches import pad, padded_losses
from trainables.specs import TrialSpec

ROWS, TO_ANSWER, TOKENS = 20, 14, 80
"""Rows whose losses are compared, how many of them are answered, and the most tokens of an answer."""
CPU = torch.device("cpu")


def plain(spec: TrialSpec, folder: str) -> Any:
    """The base as docs/models.md loads it: bitsandbytes is left as it is."""
    source = model_source.locate(spec.base_model.source)
    assert source.path is not None
    whole = AutoModelForCausalLM.from_pretrained(
        source.path.parent, gguf_file=source.path.name, quantization_config=GgufConfig(dequantize=True)
    )
    whole.save_pretrained(folder)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype="float32")


@contextmanager
def adapted(model: Any, adapter: Path) -> Iterator[Any]:
    """The model with the adapter, in evaluation."""
    with torch.inference_mode():
        yield PeftModel.from_pretrained(model, adapter).eval()


def found(model: Any, rows: list[dataset.TokenRow]) -> tuple[list[torch.Tensor], list[list[int]]]:
    """The losses of each row's labelled tokens, and the first rows' greedy answers."""
    losses = [padded_losses(model, pad([row]), CPU).double() for row in rows]
    answers = []
    for row in rows[:TO_ANSWER]:
        prompt = torch.from_numpy(row.ids[: int(row.labelled.argmax())].astype("int64"))[None]
        made = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
        )
        answers.append(made[0, prompt.shape[1] :].tolist())
    return losses, answers


def main() -> None:
    """Prints the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    adapter = parser.parse_args().adapter
    spec = load.load("quickstart", ["quantization.compute_dtype=float32"], Path.cwd()).config.base
    split = dataset.whole(spec.data_spec, "test", base_model.load_tokenizer(spec, cache()))
    rows = [split.row(place) for place in range(ROWS)]
    with adapted(base_model.load(spec, cache()).model, adapter) as model:
        ours, our_answers = found(model, rows)
    with tempfile.TemporaryDirectory() as folder, adapted(plain(spec, folder), adapter) as model:
        theirs, their_answers = found(model, rows)
    by_row = [float((mine.mean() - other.mean()).abs()) for mine, other in zip(ours, theirs, strict=True)]
    means = [float(torch.cat(of_rows).mean()) for of_rows in (ours, theirs)]
    furthest = max(float((mine - other).abs().max()) for mine, other in zip(ours, theirs, strict=True))
    other_answers = sum(mine != other for mine, other in zip(our_answers, their_answers, strict=True))
    print(f"loss of {ROWS} rows: {means[0]:.4f} as in the sweep, {means[1]:.4f} on plain bitsandbytes")
    print(f"furthest apart: a row by {max(by_row):.1e} per token, a token by {furthest:.1e}")
    print(f"other answers: {other_answers} of {TO_ANSWER}")


if __name__ == "__main__":
    main()
