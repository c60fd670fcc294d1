"""Presets and module names resolve to exactly the layers meant, on every architecture, and PEFT trains those."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import packs
import pytest
import tiny_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    BioGptConfig,
    BioGptForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    JambaConfig,
    JambaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
)

from trainables.errors import InfeasibleError
from trainables.packing import targets


@dataclass(frozen=True)
class Layers:
    """What a block of an architecture consists of, each layer by its path inside the block."""

    blocks: str
    qv: str
    attention: str
    mlp: str
    short: dict[str, set[str]] = field(default_factory=dict)
    """Preset -> its short names, where they are not the last parts of the paths."""
    infeasible: tuple[str, ...] = ()

    def paths(self, preset: str) -> list[str]:
        by_preset = {"attention-qv": self.qv, "attention": self.attention, "mlp": self.mlp}
        return by_preset.get(preset, f"{self.attention} {self.mlp}").split()

    def full_names(self, preset: str) -> set[str]:
        return {f"{self.blocks}.{index}.{path}" for index in range(2) for path in self.paths(preset)}

    def short_names(self, preset: str) -> set[str]:
        return self.short.get(preset, {path.split(".")[-1] for path in self.paths(preset)})


_QV = "self_attn.q_proj self_attn.v_proj"
_QKV = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"
_QKVO = f"{_QKV} self_attn.o_proj"
_FUSED = "self_attention.query_key_value"
_FOUR_H = "mlp.dense_h_to_4h mlp.dense_4h_to_h"
_SHARED = "mlp.shared_expert.gate_proj mlp.shared_expert.up_proj mlp.shared_expert.down_proj"
_MLA = "self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj"
_LLAMA = Layers("model.layers", _QV, _QKVO, "mlp.gate_proj mlp.up_proj mlp.down_proj")
_BLOOM = Layers("transformer.h", _FUSED, f"{_FUSED} self_attention.dense", _FOUR_H)
_GPT2_SHORT = {"attention": {"c_attn", "attn.c_proj"}, "mlp": {"c_fc", "mlp.c_proj"}}
_PHI3 = ("self_attn.qkv_proj", "self_attn.qkv_proj self_attn.o_proj", "mlp.gate_up_proj mlp.down_proj")
_NEOX = ("attention.query_key_value", "attention.query_key_value attention.dense", _FOUR_H)
LAYERS = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma", "stablelm", "gemma3_text"), _LLAMA),
    "gpt2": Layers("transformer.h", "attn.c_attn", "attn.c_attn attn.c_proj", "mlp.c_fc mlp.c_proj", _GPT2_SHORT),
    "opt": Layers("model.decoder.layers", _QV, f"{_QKV} self_attn.out_proj", "fc1 fc2"),
    "phi": Layers("model.layers", _QV, f"{_QKV} self_attn.dense", "mlp.fc1 mlp.fc2"),
    "gpt_neox": Layers("gpt_neox.layers", *_NEOX),
    "phi3": Layers("model.layers", *_PHI3),
    "falcon": _BLOOM,
    "bloom": _BLOOM,
    # The experts are stacked tensors: nothing is left of the feed-forward part.
    "mixtral": Layers("model.layers", _QV, _QKVO, "", infeasible=("mlp",)),
    "qwen2_moe": Layers("model.layers", _QV, _QKVO, _SHARED),
    # PEFT would turn the names of its dense and shared layers into those of the stacked experts.
    "deepseek_v3": Layers("model.layers", _MLA, f"{_MLA} self_attn.o_proj", "", infeasible=("mlp", "all-linear")),
}


def _adapted(model: nn.Module) -> set[str]:
    """Names that the adapted layers have in the base model."""
    return {n.removeprefix("base_model.model.") for n, m in model.named_modules() if isinstance(m, LoraLayer)}


def _wrap(model: nn.Module, names: tuple[str, ...], **options: Any) -> PeftModel:
    return get_peft_model(model, LoraConfig(r=2, target_modules=list(names), task_type="CAUSAL_LM", **options))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_presets_adapt_and_train_exactly_their_layers(architecture: str) -> None:
    layers, model = LAYERS[architecture], tiny_models.build(architecture)
    before = {id(p): p.detach().clone() for p in model.parameters()}
    names = {preset: targets.resolve(model, preset) for preset in targets.PRESETS if preset not in layers.infeasible}
    for preset, own in names.items():
        assert set(own) == layers.short_names(preset)
        assert len(own) == len(set(own))
        ends = tuple(f".{name}" for name in own)
        assert {n for n, _ in model.named_modules() if f".{n}".endswith(ends)} == layers.full_names(preset)

    widest = list(names)[-1]
    wrapped = _wrap(model, names[widest])
    ids = torch.arange(5, 29).reshape(2, 12)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    wrapped(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert _adapted(wrapped) == layers.full_names(widest)
    for preset, own in names.items():
        assert targets.resolve(wrapped, preset) == own, "the same on a model that carries adapters"
    lora_b = {n: p for n, p in wrapped.named_parameters() if "lora_B" in n}
    assert len(lora_b) == len(layers.full_names(widest))
    assert [n for n, p in lora_b.items() if not p.any()] == []
    frozen = [p for p in wrapped.parameters() if not p.requires_grad]
    assert len(frozen) == len(before)
    assert all(torch.equal(p, before[id(p)]) for p in frozen)


def test_the_saved_adapter_names_short_modules_and_loads_elsewhere(tmp_path: Path) -> None:
    names = targets.resolve(tiny_models.build("gpt2"), "mlp")
    wrapped = _wrap(tiny_models.build("gpt2"), names, init_lora_weights=False)  # so that it changes the model
    wrapped.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert set(saved) == LAYERS["gpt2"].short_names("mlp")
    ids, plain = torch.arange(5, 29).reshape(2, 12), tiny_models.build("gpt2").eval()
    expected, unadapted = wrapped.eval()(ids).logits, plain(ids).logits
    assert not torch.allclose(unadapted, expected)
    assert torch.equal(PeftModel.from_pretrained(plain, tmp_path).eval()(ids).logits, expected)


def test_a_4_bit_model_resolves_like_its_original() -> None:
    quantised = packs.base(quantised=True).model
    assert type(quantised.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    names = targets.resolve(quantised, "all-linear")
    assert names == targets.resolve(tiny_models.build("llama"), "all-linear")
    assert _adapted(_wrap(quantised, names)) == LAYERS["llama"].full_names("all-linear")


def test_names_select_by_their_end_as_in_peft_and_those_of_one_layer_stay_full_names() -> None:
    model = tiny_models.build("gpt2")
    assert targets.resolve(model, ("c_proj",)) == ("c_proj",)
    assert targets.resolve(model, ("h.0.mlp.c_proj", "h.1.mlp.c_proj")) == ("mlp.c_proj",)
    assert targets.resolve(model, ("mlp.c_proj", "c_fc", "c_proj")) == ("c_proj", "c_fc")
    names = targets.resolve(model, ("h.1.mlp.c_fc",))
    assert names == ("transformer.h.1.mlp.c_fc",)
    wrapped = _wrap(model, names)
    assert _adapted(wrapped) == set(names)
    assert targets.resolve(wrapped, names) == names


def test_the_innermost_ancestor_tells_what_a_layer_is() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_experts": 1, "vocab_size": 64}
    with torch.device("meta"):
        model = JambaForCausalLM(JambaConfig(**sizes, attn_layer_period=2, attn_layer_offset=1))
    assert type(model.model.layers[0]).__name__ == "JambaMambaDecoderLayer"
    assert targets.resolve(model, "mlp") == ("gate_proj", "up_proj", "down_proj")
    assert not {"in_proj", "x_proj", "dt_proj", "out_proj"} & set(targets.resolve(model, "all-linear"))


def test_heads_and_layers_outside_the_blocks_are_never_in_a_preset() -> None:
    classifier = LlamaForSequenceClassification(tiny_models.build("llama").config)
    assert "score" not in targets.resolve(classifier, "all-linear")
    with pytest.raises(InfeasibleError, match="heads"):
        targets.resolve(classifier, ("score",))
    projected = tiny_models.build("opt")
    assert targets.resolve(projected, ("project_in",)) == ("project_in",)
    assert not {"project_in", "project_out"} & set(targets.resolve(projected, "all-linear"))
    with torch.device("meta"):
        model = BioGptForCausalLM(BioGptConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4))
    with pytest.raises(InfeasibleError, match="'output_projection' matches no linear layer"):
        targets.resolve(model, ("output_projection",))


def test_a_vision_tower_is_left_out_of_presets_and_names() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma3Config(text_config=text, vision_config={**sizes, "image_size": 28, "patch_size": 14})
    model = Gemma3ForConditionalGeneration(config)
    self_attn = "model.language_model.layers.0.self_attn"
    assert any("vision_tower" in n and n.endswith(".q_proj") for n, _ in model.named_modules())

    for meant in ("attention-qv", ("q_proj", "v_proj")):
        names = targets.resolve(model, meant)
        assert names == (f"{self_attn}.q_proj", f"{self_attn}.v_proj")
    assert _adapted(_wrap(model, names)) == set(names)


class _Block(nn.Module):
    """A block of a model with code of its own, whose experts are layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.mlp = nn.ModuleDict(
            {
                "gate": nn.Linear(4, 2),
                "experts": nn.ModuleList(nn.ModuleDict({"w1": nn.Linear(4, 4)}) for _ in range(2)),
                "shared_experts": nn.ModuleDict({"up_proj": nn.Linear(4, 4)}),
            }
        )


def test_experts_that_are_layers_are_left_out_and_shared_ones_are_not() -> None:
    block = _Block()
    model = nn.Module()
    model.layers = nn.ModuleList([block])
    assert targets.resolve(model, "mlp") == ("up_proj",)
    assert targets.resolve(model, "all-linear") == ("q_proj", "up_proj")
    with pytest.raises(InfeasibleError, match=r"'w1' matches no linear layer .* nor single experts"):
        targets.resolve(model, ("q_proj", "w1"))
    del block.mlp["shared_experts"]
    why = r"mlp matches no layer .* its experts are given the tokens of all trials"
    with pytest.raises(InfeasibleError, match=why):
        targets.resolve(model, "mlp")


@pytest.mark.parametrize(
    ("architecture", "meant", "parts"),
    [
        ("mixtral", "mlp", ["mlp matches no layer of MixtralForCausalLM", "v_proj (2)"]),
        ("mixtral", "mlp", ["stacked tensors (down_proj, gate_up_proj)"]),
        ("mixtral", "mlp", ["a preset that matches (attention-qv, attention, all-linear)"]),
        ("deepseek_v3", "mlp", ["gate_proj, up_proj, down_proj of DeepseekV3ForCausalLM", "another preset"]),
        ("deepseek_v3", ("q_a_proj", "up_proj"), ["PEFT takes up_proj of DeepseekV3ForCausalLM"]),
        ("gpt2", ("c_proj", "q_proj"), ["'q_proj' matches no linear layer", "c_attn (2), c_proj (4)"]),
        ("gpt2", ("c_proj", "q_proj"), ["closest is c_proj"]),
        ("llama", ("proj",), ["'proj' matches no linear layer"]),
        ("llama", ("lm_head",), ["'lm_head'", "heads, routers, vision and audio towers never are"]),
        ("qwen2_moe", ("shared_expert_gate",), ["'shared_expert_gate'", "routers"]),
    ],
)
def test_what_cannot_be_adapted_says_why_and_what_there_is(architecture, meant, parts) -> None:
    with pytest.raises(InfeasibleError) as caught:
        targets.resolve(tiny_models.build(architecture), meant)
    message = str(caught.value)
    assert message.startswith("adapter.target_modules: ")
    assert [part for part in parts if part not in message] == []


def test_a_state_space_model_has_no_preset_but_takes_names() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(InfeasibleError, match=r"in_proj \(1\).*list some of these names"):
        targets.resolve(model, "all-linear")
    assert targets.resolve(model, ("in_proj",)) == ("in_proj",)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "phi3"])
def test_names_that_are_known_without_the_model_are_those_of_the_model(architecture: str) -> None:
    model = tiny_models.build(architecture)
    names = targets.resolve(model, "all-linear")
    assert model.config.model_type == architecture
    assert targets.check_known(names, architecture) is None
    assert targets.check_known("all-linear", architecture) is None
    problem = targets.check_known((names[0], "o_poj"), architecture)
    assert problem is not None and "'o_poj' matches no linear layer" in problem and "closest is o_proj" in problem
    assert targets.check_known(("o_poj",), "mamba") is None


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("attention-vq", "did you mean attention-qv?"),
        ("q_proj", "module names are given as a list, for example [q_proj, v_proj]"),
        (".*proj", "The presets are attention-qv, attention, mlp, all-linear"),
        (("mlp", "q_proj"), "without brackets"),
        (("q_proj", ""), "'' is not a module name"),
    ],
)
def test_a_wrong_name_is_told_with_the_way_out(bad: str | tuple[str, ...], hint: str) -> None:
    problem = targets.check_name(bad)
    assert problem is not None
    assert problem.startswith("adapter.target_modules: ")
    assert hint in problem
    assert targets.check_name(("q_proj", "attn.c_proj")) is None
    assert not any(map(targets.check_name, targets.PRESETS))
