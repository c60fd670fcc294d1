"""Sizes of common bases that ship: each with its source, counted again by transformers, and only where no file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from model_folders import LLAMA, cached
from transformers import AutoConfig, AutoModelForCausalLM

from trainables.base import architectures, model_sizes, model_source
from trainables.specs import ModelFacts, ModelSpec

FILE: dict[str, Any] = json.loads(Path(model_sizes.__file__).with_name("shipped_facts.json").read_text())
MODELS: list[dict[str, Any]] = FILE["models"]
PUBLISHED = {
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "microsoft/phi-4": 14_659_507_200,
}
"""Parameters of models, as others publish them: presets of KerasHub (keras_hub/src/models/*/*_presets.py), and totals
of the hub's safetensors as debaditc/kvfit copied them (src/kvfit/data/models.json)."""
VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 896, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
"""The part of Gemma 3 that sees pictures, of 400 million parameters (SigLIP), as its config.json has it."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def built(facts: ModelFacts, layers: int, tied: bool) -> int:
    """Parameters of a model with these sizes and so many layers, without memory for them."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": facts.hidden_size, "intermediate_size": facts.intermediate_size,
        "vocab_size": facts.vocab_size, "num_attention_heads": facts.attention_heads,
        "num_key_value_heads": facts.key_value_heads, **({"head_dim": facts.head_dim} if facts.head_dim else {}),
    }  # fmt: skip
    if facts.model_type == "gemma3":
        config = AutoConfig.for_model("gemma3", text_config=sizes, vision_config=VISION)
    else:
        config = AutoConfig.for_model(facts.model_type, **sizes, pad_token_id=None)
    config.tie_word_embeddings = tied
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: str(entry["of"][0]))
def test_the_sizes_give_the_parameters(entry: dict[str, Any], cache: Path) -> None:
    """All layers of a model have equally many parameters, so two of them tell."""
    for name in entry["of"]:
        facts = model_source.facts(ModelSpec(source=name))
        assert facts is not None and facts.of == name
        assert facts.parameters == PUBLISHED.get(name, facts.parameters)
    assert facts is not None
    counts = []
    for tied in (False, True):
        one, two = (built(facts, layers, tied) for layers in (1, 2))
        counts.append(one + (facts.layers - 1) * (two - one))
    assert facts.parameters in counts


def test_each_entry_has_its_source_and_a_type_that_can_be_trained() -> None:
    known = architectures.tables()
    assert known is not None
    names = [name for entry in MODELS for name in entry["of"]]
    assert len(set(names)) == len(names) and set(PUBLISHED) <= set(names) and len(MODELS) >= 20
    for entry in MODELS:
        assert entry["config"] in {f"https://huggingface.co/{name}/blob/main/config.json" for name in entry["of"]}
        assert entry["read_in"] in FILE["copies"]
        assert entry["facts"]["model_type"] in known.causal


def test_the_files_of_a_model_and_given_facts_count_before_those_that_ship(cache: Path, monkeypatch) -> None:
    plain = ModelSpec(source="Qwen/Qwen3-8B")
    told = model_source.guess(plain)
    assert told is not None and told.endswith("machine yet; planned with the sizes that ship with this product")
    assert model_source.model_type(plain) == "qwen3"
    own = model_source.facts(plain)
    assert own is not None
    given = plain.model_copy(update={"facts": own.model_copy(update={"layers": 3, "model_type": "llama"})})
    found = model_source.facts(given)
    assert found is not None and (found.layers, model_source.model_type(given)) == (3, "llama")
    assert "that ship" not in (model_source.guess(given) or "")
    cached(cache, LLAMA, name="Qwen/Qwen3-8B")
    found = model_source.facts(plain)
    assert found is not None and (found.layers, model_source.model_type(plain)) == (2, "llama")
    assert model_source.guess(plain) is None


def test_a_folder_with_such_a_name_has_the_sizes_of_its_own_files(tmp_path: Path, monkeypatch, cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "microsoft" / "phi-4").mkdir(parents=True)
    (tmp_path / "microsoft" / "phi-4" / "config.json").write_text("{}")
    assert model_source.facts(ModelSpec(source="microsoft/phi-4")) is None
    assert model_source.facts(ModelSpec(source="owner/phi-4")) is None
