"""llama.cpp itself reads an exported adapter: `make serving` brings its library and runs this.

llama.cpp's own server gives no log-probabilities of a prompt, so the library is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from trainables.scoring import exporter
from trainables.scoring.exports import ExportRequest
from trainables.scoring.requests import Sample
from trainables.specs import ModelSpec, QuantizationSpec, TrialSpec

ENVIRONMENT = Path(os.environ.get("QSWEEP_SERVING_LLAMA", "nowhere"))
pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(
        not (ENVIRONMENT / ".ready").exists(), reason="llama.cpp is not installed: make serving does it"
    ),
]
ROWS = [[(7 * n + 11 * place) % 290 + 5 for place in range(24)] for n in range(6)]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A Llama with heads of 32, as a folder with `base.gguf` beside it."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models._CONFIGS["llama"], "hidden_size", 128)
        tiny_models.save("llama", folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    write_gguf(model, folder / "base.gguf")
    return folder


def write_gguf(model, file: Path) -> None:
    """As llama.cpp's conversion does, written down apart from the product: q and k change halves for pairs."""
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in model.state_dict().items():
        values, module = tensor.float().numpy(), name.removesuffix(".weight")
        layer = ""
        if module.startswith("model.layers."):
            _, _, number, module = module.split(".", 3)
            layer = f"blk.{number}."
        heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
        if module in heads:
            by_head = values.reshape(heads[module], 2, config.head_dim // 2, -1)
            values = np.ascontiguousarray(by_head.transpose(0, 2, 1, 3).reshape(values.shape))
        writer.add_tensor(f"{layer}{NAMES[module]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(base: Path, adapter: str, work: Path) -> np.ndarray:
    (work / "rows.json").write_text(json.dumps(ROWS))
    script = Path(__file__).parent / "llama_scores.py"
    command = [
        f"{ENVIRONMENT}/bin/python",
        "-I",
        str(script),
        str(base / "base.gguf"),
        adapter,
        str(work / "rows.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def by_transformers(model) -> np.ndarray:
    ids = torch.tensor(ROWS)
    with torch.no_grad():
        told = model(input_ids=ids).logits.float().log_softmax(-1)[:, :-1]
    return told.gather(-1, ids[:, 1:, None])[..., 0].numpy()


@pytest.mark.parametrize(("rank", "is_stabilised"), [(8, False), (4, True)])
def test_llama_cpp_answers_with_an_exported_adapter_as_peft_does(base, tmp_path, rank, is_stabilised):
    torch.manual_seed(1)
    config = LoraConfig(r=rank, lora_alpha=6, use_rslora=is_stabilised, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    files = {each.name: each.read_bytes() for each in (tmp_path / "adapter").iterdir() if each.suffix != ".md"}
    request = ExportRequest(
        form="gguf", folder=str(tmp_path), name="tickets-v3", adapter=files, tokenizer={}, base_files={},
        rows=(Sample(columns={}, ids=tuple(ROWS[0]), labelled=(9, 10)),),
    )  # fmt: skip
    spec = TrialSpec(
        model=ModelSpec(source=str(base)), quantization=QuantizationSpec(scheme="none", compute_dtype="float32")
    )
    exporter.export(spec, request, tmp_path / "cache")
    plain = by_transformers(AutoModelForCausalLM.from_pretrained(base).eval())
    adapted = by_transformers(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    )
    assert np.abs(adapted - plain).mean() > 0.1
    # llama.cpp's own sums, in float32.
    assert by_llama_cpp(base, "", tmp_path) == pytest.approx(plain, abs=1e-3)
    assert by_llama_cpp(base, str(tmp_path / "tickets-v3.gguf"), tmp_path) == pytest.approx(adapted, abs=1e-3)
