"""Only decoder-only causal language models are accepted, by what their configuration says, without importing torch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import constants
from model_folders import cached, gguf_file, gguf_pairs, gguf_text
from transformers import CONFIG_MAPPING, modeling_gguf_pytorch_utils
from transformers.models.auto import auto_mappings, modeling_auto

from trainables.base import architectures, model_source
from trainables.base.architectures import ArchitectureCheck, of_config
from trainables.specs import ModelSpec

ALWAYS_CAUSAL = {"gpt_neox", "gpt_neox_japanese"}
"""Their configurations have a default of is_decoder that nothing reads (transformers 5.24)."""
NOT_ENCODERS_BUT_REFUSED = {"xlnet", "xlm", "moss_transcribe_diarize"}


def test_the_tables_are_those_of_transformers() -> None:
    known = architectures.tables()
    assert known is not None
    assert known.types == frozenset(auto_mappings.CONFIG_MAPPING_NAMES) & known.types
    # Some are added elsewhere: parts of sound models, and other names of one type.
    assert len(frozenset(CONFIG_MAPPING) - known.types) < 20
    for table in ("MODEL_FOR_CAUSAL_LM", "MODEL_FOR_MASKED_LM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM", "MODEL"):
        expected = getattr(modeling_auto, f"{table}_MAPPING_NAMES")
        assert {kind: classes[0] for kind, classes in known.classes[table].items()} == {
            kind: name if isinstance(name, str) else name[0] for kind, name in expected.items()
        }
    supported = set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES)
    assert known.gguf == supported - {"general", "tokenizer"}


def test_every_type_of_transformers_is_judged_by_its_own_defaults() -> None:
    """Encoders that have a class for causal models are no decoders, unless they say so."""
    known = architectures.tables()
    assert known is not None
    wrong, judged = [], 0
    for kind in sorted(known.causal.keys() - {"gemma4_assistant"}):  # it has no defaults
        config = CONFIG_MAPPING[kind]()
        encodes = getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", True) is False
        expected = (encodes and kind not in ALWAYS_CAUSAL) or kind in NOT_ENCODERS_BUT_REFUSED
        found = of_config(json.loads(config.to_json_string()))
        wrong += [(kind, found)] if (found == ArchitectureCheck()) is expected else []
        judged += 1
    assert wrong == []
    assert judged > 150


def test_tables_that_cannot_be_read_are_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "tables", lambda: None)
    for found in (of_config({"model_type": "llama"}), architectures.of_gguf({"general.architecture": "llama"})):
        assert "cannot be read" in (found.doubt or "")
    assert of_config({"model_type": "bart", "is_encoder_decoder": True}).refusal is not None


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "bart", "is_encoder_decoder": True}, "an encoder-decoder (is_encoder_decoder in config.json)"),
    ({"model_type": "t5"}, "model_type 't5' is not a causal language model"),
    ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "(saved as BertForMaskedLM) is not a decoder"),
    ({"model_type": "xlnet"}, "sees the tokens that are to be predicted"),
    ({"model_type": "llama", "is_causal": False}, "(is_causal false in config.json)"),
    ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "(use_bidirectional_attention true in"),
    ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "has no language-model head"),
    ({"model_type": "newer"}, "does not know model_type 'newer': a newer version may"),
    ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "allow it with model.trust_remote_code=true"),
    ({}, "config.json has no model_type"),
    # These may be decoders.
    ({"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}, ""),
    ({"model_type": "bart", "architectures": ["BartForCausalLM"], "is_decoder": True, "is_encoder_decoder": False}, ""),
    ({"model_type": "gpt2", "architectures": ["GPT2Model"]}, ""),  # its head is its embeddings: loading tells
    ({"model_type": "llama", "architectures": ["LLaMAForCausalLM"]}, ""),  # a name of former days
    ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}, ""),
]


@pytest.mark.parametrize(("config", "said"), CONFIGS)
def test_what_is_no_decoder_is_refused_by_its_configuration(config: dict[str, Any], said: str) -> None:
    found = of_config(config)
    assert said in (found.refusal or "") and (found == ArchitectureCheck()) == (said == "")


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        *((each, None) for each in ("llama", "qwen2moe", "gpt-oss", "minimax-m2", "gemma3", "mamba")),
        ("bert", "a GGUF file of architecture 'bert' cannot be loaded: transformers"),
        ("t5", "architecture 't5' is not a causal language model"),
        ("t5encoder", "architecture 't5encoder' is not a causal language model"),
    ],
)
def test_gguf_files_of_decoders_are_accepted_and_others_refused(architecture: str, said: str | None) -> None:
    found = architectures.of_gguf({"general.architecture": architecture})
    assert found == ArchitectureCheck() if said is None else said in (found.refusal or "")


def test_what_is_no_decoder_is_refused_in_a_gguf_file_and_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    pairs = gguf_pairs()
    pairs[0] = gguf_text("general.architecture") + b"\x08\0\0\0" + gguf_text("bert")
    (file := tmp_path / "base.gguf").write_bytes(gguf_file(*pairs))
    (problem,) = model_source.check_model(ModelSpec(source=str(file)))
    assert problem.startswith(f"model.source: {str(file)!r}: a GGUF file of architecture 'bert' cannot be loaded")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_source.check_model(ModelSpec(source="owner/name")) == []
    cached(tmp_path, {"model_type": "bert"})
    (problem,) = model_source.check_model(ModelSpec(source="owner/name"))
    assert problem.startswith("model.source: 'owner/name': model_type 'bert' is not a decoder")
