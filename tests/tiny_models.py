"""Tiny random models of many architectures, and a tokenizer that encodes any text; no network, equal on every call."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from trainables.specs import ModelSpec, QuantizationSpec, TrialSpec

PAD, EOS, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
VOCAB_SIZE = 304
"""Tokens of the tokenizer and rows of every model's embedding: 5 special ones, 256 bytes and 43 merges."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CORPUS = (
    "The printer on the third floor does not answer. Restart it, then try the printer again.",
    "My invoice shows the wrong address; who can change the address on the invoice?",
    "How do I reset the password of my account? Open the settings and choose reset password.",
    "The total of 12 and 30 is 42, and the answer to the question is that the total is 42.",
)

# Wide enough weights that attention and context matter: at the usual 0.02 every output of so small a model is alike.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}
_LLAMA: dict[str, Any] = _SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
    "mistral": _LLAMA | {"sliding_window": 8},
    "gemma": _LLAMA | {"head_dim": 8},
    "gpt2": _SIZES | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": _SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 16, "init_std": 0.1, "dropout": 0.0},
    "phi": _LLAMA,
    "gpt_neox": _SIZES | {"intermediate_size": 64},
    "gemma3_text": _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8},
    "phi3": _LLAMA,
    "stablelm": _LLAMA,
    "falcon": _SIZES,
    "bloom": _SIZES,
    "mixtral": _LLAMA | {"num_local_experts": 4},
    "qwen2_moe": _LLAMA | _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 32},
    "deepseek_v3": _LLAMA
    | _EXPERTS
    | _MLA
    | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
}
ARCHITECTURES: tuple[str, ...] = tuple(_CONFIGS)
"""transformers' model types that `build` knows."""


def build(architecture: str, layers: int = 2) -> PreTrainedModel:
    """A model in float32 and training mode, without dropout; the caller's random state is left alone."""
    special = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    sizes = _CONFIGS[architecture] | {"num_hidden_layers": layers}
    config = AutoConfig.for_model(architecture, **sizes, **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.train()


@cache
def _backend() -> str:
    """The trained byte-level BPE as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, EOS, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for all of `ARCHITECTURES`, with a chat template for system, user and assistant."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()),
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        chat_template=_CHAT_TEMPLATE,
    )


def save(architecture: str, folder: Path) -> Path:
    """Writes model and tokenizer as a local folder that `from_pretrained` reads; returns the folder."""
    build(architecture).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def trial_on(source: Path | str, **quantization: Any) -> TrialSpec:
    """A trial on a saved model, by default in four bits with float32."""
    chosen = QuantizationSpec.model_validate({"compute_dtype": "float32", **quantization})
    return TrialSpec(model=ModelSpec(source=str(source)), quantization=chosen)
