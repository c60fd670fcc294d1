"""How large a base model is, by its own files, and facts that say something else."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path

import pytest
import tiny_models
from huggingface_hub import constants
from known_models import LLAMA_8B
from model_folders import LLAMA, cached, gguf_file, gguf_pairs, gguf_text, gguf_uint32, write_folder, write_safetensors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from trainables.base import model_files, model_source
from trainables.specs import ModelFacts, ModelSpec


def sizes(source: Path | str) -> ModelFacts | None:
    return model_source.facts(ModelSpec(source=str(source)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_header_of_a_gguf_file_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(gguf_file(*gguf_pairs()))
    first = model_files.header("base", path)
    assert model_files.header("base", path)[0] is first[0], "one content is read once"
    path.write_bytes(gguf_file(*gguf_pairs(), gguf_uint32("llama.attention.key_length", 16)))
    assert "llama.attention.key_length" not in first[0]
    assert model_files.header("base", path)[0]["llama.attention.key_length"] == 16


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
    found = sizes(write_folder(tmp_path, {"model_type": "vision", "hidden_size": 7, "text_config": LLAMA}))
    assert found is not None
    assert (found.hidden_size, found.layers, found.parameters) == (32, 2, 105)


def llama(tied: bool = True) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**LLAMA | {"tie_word_embeddings": tied}))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=8))


@pytest.mark.parametrize(("build", "tolerance"), [(llama, 0.0), (partial(llama, tied=False), 0.0), (gpt2, 0.05)])
def test_parameters_are_computed_where_no_weights_are_to_be_counted(tmp_path, cache, build, tolerance):
    model = build()
    config = json.loads(model.config.to_json_string())
    cached(cache, config)
    # Packed weights do not count.
    folder = write_folder(tmp_path / "packed", config | {"quantization_config": {"load_in_4bit": True}})
    for found in (sizes("owner/name"), sizes(folder)):
        assert found is not None
        assert found.parameters == pytest.approx(model.num_parameters(), rel=tolerance)
    assert model_source.facts(ModelSpec(source="owner/name", revision="other")) is None
    assert sizes("owner/other") is None


def test_shards_are_counted_together_and_other_files_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    for index, name in enumerate(shards.values()):
        write_safetensors(folder / name, (3, index + 1))
    write_safetensors(folder / "consolidated.safetensors", (9, 9))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    found = sizes(folder)
    assert found is not None and found.parameters == 9


def test_sizes_are_unknown_without_heads_and_of_a_mixture_of_experts_without_weights(tmp_path: Path) -> None:
    assert sizes(write_folder(tmp_path / "a", {k: v for k, v in LLAMA.items() if k != "num_attention_heads"})) is None
    packed = LLAMA | {"quantization_config": {}}
    for number, experts in enumerate(("num_local_experts", "n_routed_experts")):
        assert sizes(write_folder(tmp_path / str(number), packed | {experts: 8})) is None


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


def test_given_facts_are_used_where_no_file_says_more(cache: Path) -> None:
    model = ModelSpec(source="owner/name", facts=LLAMA_8B)
    assert model_source.facts(model) == LLAMA_8B
    others = model.model_copy(update={"facts": LLAMA_8B.model_copy(update={"of": "owner/other"})})
    assert model_source.facts(others) is None
    cached(cache, LLAMA)
    found = model_source.facts(model)
    assert found is not None and found.layers == 2
