"""A loaded base is looked at itself: one that sees ahead, or whose weights are not all there, is not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import packs
import pytest
import tiny_models
import torch
from tiny_models import trial_on
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from trainables.base import base_checks, base_model
from trainables.errors import ModelError
from trainables.specs import DataSpec, ModelSpec

GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 64, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    "ctrl": {**GPT2, "dff": 64},
    "xlnet": {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "gptj": {**GPT2, "n_positions": 128, "rotary_dim": 4},
    "roberta": {**BERT, "vocab_size": 64, "is_decoder": True, "max_position_embeddings": 130, "pad_token_id": 1},
    "bert": {**BERT, "vocab_size": tiny_models.VOCAB_SIZE},
}
"""Families that `tiny_models` does not have, and their sizes."""


def made(kind: str, **fields: Any) -> PreTrainedModel:
    if kind not in OTHERS:
        return tiny_models.build(kind)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **OTHERS[kind], **fields))
    return model


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_causal_models_do_not_see_ahead(architecture: str) -> None:
    base_checks.refuse_foresight("x", packs.base(architecture, dtype=torch.bfloat16).model)


def test_neither_do_quantised_ones_state_spaces_and_decoders_of_other_families() -> None:
    for model in (packs.base(quantised=True).model, made("mamba"), made("ctrl"), made("bert", is_decoder=True)):
        base_checks.refuse_foresight("x", frozen(model))


def test_a_model_that_sees_ahead_is_refused_whatever_its_name() -> None:
    for model in (made("bert"), made("xlnet")):
        with pytest.raises(ModelError, match=r"^model\.source: 'x': its output depends on tokens that are to be predi"):
            base_checks.refuse_foresight("x", frozen(model).to(torch.bfloat16))


def with_tokenizer(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def test_a_model_that_sees_ahead_and_an_encoder_decoder_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="depends on tokens that are to be predicted"):
        base_model.load(trial_on(with_tokenizer(made("bert"), tmp_path / "bert")), tmp_path / "cache")
    # Its decoder would be loaded alone.
    bart = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("bart", **BART, vocab_size=304))
    with pytest.raises(ModelError, match=r"its files lack lm_head\.weight, model\.decoder\.embed_tokens\.weight"):
        base_model.load(trial_on(with_tokenizer(bart, tmp_path / "bart")), tmp_path / "cache")


def test_a_model_that_does_not_work_in_four_bits_is_told_with_the_way_out(tmp_path: Path) -> None:
    """Mamba multiplies by the weights of a layer itself, which are packed then (transformers 5.24)."""
    folder = with_tokenizer(made("mamba"), tmp_path / "mamba")
    with pytest.raises(ModelError, match=r"its first pass fails \(RuntimeError: .*quantization\.scheme=none may help"):
        base_model.load(trial_on(folder), tmp_path / "cache")
    base_model.load(trial_on(folder, scheme="none"), tmp_path / "cache")


def test_a_model_without_a_head_of_its_own_is_refused_unless_the_embeddings_are_it(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **tiny_models._CONFIGS["llama"], tie_word_embeddings=False)
    folder = with_tokenizer(AutoModelForSequenceClassification.from_config(config), tmp_path / "classes")
    with pytest.raises(ModelError, match=r"its files lack lm_head\.weight, which would be random"):
        base_model.load(trial_on(folder, scheme="none"), tmp_path / "cache")
    config = AutoConfig.for_model("gpt2", **tiny_models._CONFIGS["gpt2"])
    folder = with_tokenizer(AutoModel.from_config(config), tmp_path / "gpt2")
    loaded = base_model.load(trial_on(folder, scheme="none"), tmp_path / "cache")
    assert loaded.model.lm_head.weight.shape == (304, 32)


def test_a_model_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    """transformers makes one of a single word for it, with which no row has a token."""
    tiny_models.build("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelError, match=r"gpt2' has no tokenizer: no vocabulary among its files"):
        base_model.load_tokenizer(trial_on(tmp_path / "gpt2"), tmp_path / "cache")


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom", "roberta", "gptj"])
def test_rows_beyond_a_table_of_positions_are_refused_and_no_others(name: str) -> None:
    """All of these say that they have 128 positions; rotary ones take more."""
    model = frozen(made(name))
    data = DataSpec(train="a.jsonl", text="{a}", max_length=200)
    spec = packs.spec().model_copy(update={"model": ModelSpec(source="some/model"), "data": data})
    base_checks.refuse_long_rows(model, spec, 128)
    model(torch.full((1, 128), 5))
    if name in ("llama", "bloom"):
        base_checks.refuse_long_rows(model, spec, 129)
        model(torch.full((1, 129), 5))
        return
    with pytest.raises(ModelError, match=r"^data\.max_length: 200 .* 129 tokens, and some/model has 128 positions"):
        base_checks.refuse_long_rows(model, spec, 129)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 129), 5))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_token_without_an_embedding_is_refused_and_the_last_one_with_it_is_not(name: str) -> None:
    model, spec = frozen(tiny_models.build(name)), packs.spec()
    base_checks.refuse_unknown_tokens(model, spec, tiny_models.VOCAB_SIZE - 1)
    model(torch.tensor([[tiny_models.VOCAB_SIZE - 1]]))
    says = r"^model\.source: 'tiny/model': its tokenizer writes token 304 .* 304 embeddi"
    with pytest.raises(ModelError, match=says):
        base_checks.refuse_unknown_tokens(model, spec, tiny_models.VOCAB_SIZE)
    with pytest.raises(IndexError):
        model(torch.tensor([[tiny_models.VOCAB_SIZE]]))
