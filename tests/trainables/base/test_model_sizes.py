"""How large a base model is, by its own files, and facts that say something else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny_models
from huggingface_hub import constants
from model_folders import (
    LLAMA,
    gguf_file,
    gguf_pairs,
    gguf_text,
    gguf_uint32,
    write_folder,
    write_safetensors,
)
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trainables.base import model_source
from trainables.specs import ModelFacts, ModelSpec


def sizes(source: Path | str) -> ModelFacts | None:
    return model_source.facts(ModelSpec(source=str(source)))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "phi", "gemma3_text", "bloom"])
def test_facts_of_a_folder_are_those_of_the_model(tmp_path: Path, architecture: str) -> None:
    model = tiny_models.build(architecture)
    model.save_pretrained(tmp_path)
    config = model.config
    expected = ModelFacts(
        parameters=model.num_parameters(),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=128 if architecture in ("gpt2", "bloom") else 64,
        vocab_size=config.vocab_size,
        attention_heads=config.num_attention_heads,
        key_value_heads=getattr(config, "num_key_value_heads", 4),
        head_dim=getattr(config, "head_dim", None) if architecture != "phi" else None,
    )
    assert sizes(tmp_path) == expected


def test_facts_of_a_multimodal_model_are_those_of_its_language_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"model_type": "vision", "hidden_size": 7, "text_config": LLAMA})
    found = sizes(folder)
    assert found is not None
    assert (found.hidden_size, found.layers, found.parameters) == (32, 2, 105)


def llama(tied: bool = True) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**LLAMA | {"tie_word_embeddings": tied}))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=8))


@pytest.mark.parametrize(("build", "tolerance"), [(llama, 0.0), (partial(llama, tied=False), 0.0), (gpt2, 0.05)])
def test_parameters_are_computed_where_only_the_configuration_is_cached(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], PreTrainedModel],
    tolerance: float,
) -> None:
    model = build()
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
    model.config.save_pretrained(snapshot)
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = sizes("owner/name")
    assert found is not None
    assert found.parameters == pytest.approx(model.num_parameters(), rel=tolerance)
    assert model_source.facts(ModelSpec(source="owner/name", revision="other")) is None
    assert sizes("owner/other") is None


def test_packed_weights_are_not_counted_as_parameters(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LLAMA | {"quantization_config": {"load_in_4bit": True}})
    found = sizes(folder)
    assert found is not None
    assert found.parameters == llama().num_parameters()


def test_shards_are_counted_together_and_other_files_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    for index, name in enumerate(shards.values()):
        write_safetensors(folder / name, (3, index + 1))
    write_safetensors(folder / "consolidated.safetensors", (9, 9))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    found = sizes(folder)
    assert found is not None
    assert found.parameters == 9


def test_configuration_without_heads_leaves_the_sizes_unknown(tmp_path: Path) -> None:
    assert sizes(write_folder(tmp_path, {k: v for k, v in LLAMA.items() if k != "num_attention_heads"})) is None


@pytest.mark.parametrize("version", [2, 3])
def test_gguf_header_gives_the_sizes(tmp_path: Path, version: int) -> None:
    path = tmp_path / "base.gguf"
    key_value_heads = gguf_text("llama.attention.head_count_kv") + struct.pack("<IIQ2I", 9, 4, 2, 1, 2)
    pairs = (*gguf_pairs(), key_value_heads, gguf_uint32("llama.attention.key_length", 16))
    path.write_bytes(gguf_file(*pairs, version=version))
    assert sizes(path) == ModelFacts(
        parameters=32 * 64 + 32,
        layers=2,
        hidden_size=32,
        intermediate_size=48,
        vocab_size=64,
        attention_heads=4,
        key_value_heads=2,
        head_dim=16,
    )


def test_given_facts_are_used_where_no_file_says_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    given = ModelFacts(
        parameters=9, layers=80, hidden_size=1, intermediate_size=1, vocab_size=1, attention_heads=1, key_value_heads=1
    )
    model = ModelSpec(source="owner/name", facts=given)
    assert model_source.facts(model) == given
    others = model.model_copy(update={"facts": given.model_copy(update={"of": "owner/other"})})
    assert model_source.facts(others) is None
    write_cached(tmp_path, LLAMA)
    found = model_source.facts(model)
    assert found is not None and found.layers == 2


@pytest.mark.parametrize("name", ["num_local_experts", "n_routed_experts"])
def test_the_parameters_of_a_mixture_of_experts_are_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    write_cached(tmp_path, LLAMA | {name: 8})
    assert sizes("owner/name") is None


def write_cached(cache: Path, config: dict[str, object]) -> None:
    """The configuration of owner/name in a cache of the hub, without weights."""
    snapshot = cache / "models--owner--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    refs = cache / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123")
