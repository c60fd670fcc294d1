"""llama.cpp's own server serves exported adapters: `make serving-llama` brings it, as a package, and runs this."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import gguf.quants
import numpy as np
import promotions
import pytest
import requests
import tiny_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from promotions import MODEL
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.promotion import check_serving, export
from sweeps.promotion.openai_client import Server
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry
from trainables.scoring import adapter_exporter, gguf_model
from trainables.scoring.requests import ExportRequest, Sample
from trainables.specs import ModelSpec, QuantizationSpec, TrialSpec

PACKAGES = Path(os.environ.get("QSWEEP_SERVING_LLAMA", "nowhere"))
pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(
        not (PACKAGES / ".ready").exists(), reason="xllamacpp is not installed: make serving-llama does it"
    ),
]
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
ROWS = [[(7 * n + 11 * place) % 290 + 5 for place in range(24)] for n in range(6)]
SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    **{
        name: pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS.replace("DIGITS", digits)), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        for name, digits in (("qwen2", r"\p{N}"), ("llama-bpe", r"\p{N}{1,3}"))
    },
}
"""How tokenizers of SmolLM, Qwen and Llama 3 split text, as their tokenizer.json says it."""
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


class World(NamedTuple):
    """Two versions as GGUF beside their base, and the store of their records."""

    folder: Path
    uri: str

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.gguf"

    def check(self, address: str, name: str, model: str = MODEL) -> tuple[int, str, dict]:
        asked = ["check-serving", address, "--model", model, "--served-name", name, "--tracking-uri", self.uri]
        done = CliRunner().invoke(app, [*asked, "--json"])
        assert done.stdout, done.stderr
        return done.exit_code, done.stderr, json.loads(done.stdout)


@pytest.fixture(scope="module")
def world(promoted, tmp_path_factory) -> World:
    """What `qsweep export` writes of both versions, and their base in float32 and with 4 bits."""
    made = World(tmp_path_factory.mktemp("served"), f"sqlite:///{promoted}/mlflow.db")
    for alias in ("previous", "champion"):
        out = made.folder / alias
        export.export(f"{MODEL}@{alias}", "gguf", out, False, made.uri, scored_by=promotions.in_process)
        (file,) = out.iterdir()
        file.rename(made.folder / file.name)
    model = AutoModelForCausalLM.from_pretrained(promoted / "base")
    write_gguf(model, made.file("base"))
    write_gguf(model, made.file("q4_0"), is_quantised=True)
    return made


@contextmanager
def served(model: Path, *adapters: Path, name: str = "served", scale: float = 1.0) -> Iterator[str]:
    """The address of a server of these files while the block runs.

    Args:
        name: of what answers.
        scale: how much of each adapter is applied.
    """
    script = Path(__file__).parent / "llama_server.py"
    command = [sys.executable, str(script), str(model), name, str(scale), *map(str, adapters)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    log = model.parent / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as server,
    ):
        address = server.stdout.readline().strip()
        assert address, log.read_text()[-2000:]
        yield address


def write_gguf(model, file: Path, is_quantised: bool = False) -> None:
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
    tokens = json.loads(tiny_models.tokenizer().backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokens["vocab"], key=tokens["vocab"].get))
    writer.add_eos_token_id(tokens["vocab"][tiny_models.EOS])
    writer.add_token_merges([" ".join(pair) for pair in tokens["merges"]])
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
        if is_quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(f"{layer}{NAMES[module]}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{layer}{NAMES[module]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_transformers(model) -> np.ndarray:
    ids = torch.tensor(ROWS)
    with torch.no_grad():
        told = model(input_ids=ids).logits.float().log_softmax(-1)[:, :-1]
    return told.gather(-1, ids[:, 1:, None])[..., 0].numpy()


def by_llama_cpp(*files: Path) -> np.ndarray:
    with served(*files) as address:
        return np.array([Server(address).log_probabilities("served", row, range(1, len(row))) for row in ROWS])


@pytest.mark.parametrize(("rank", "is_stabilised"), [(8, False), (4, True)])
def test_llama_cpp_answers_with_an_exported_adapter_as_peft_does(promoted, world, tmp_path, rank, is_stabilised):
    torch.manual_seed(1)
    base = promoted / "base"
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
    adapter_exporter.export(spec, request, tmp_path / "cache")
    plain = by_transformers(AutoModelForCausalLM.from_pretrained(base).eval())
    adapted = by_transformers(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    )
    assert np.abs(adapted - plain).mean() > 0.1
    adapter = tmp_path / "tickets-v3.gguf"
    for served_files, expected in (([], plain), ([adapter], adapted)):
        told = by_llama_cpp(world.file("base"), *served_files)
        known = np.isfinite(told)  # the rows hold bytes that are no whole characters
        assert 0.2 < known.mean() < 1
        # llama.cpp keeps keys and values in float16.
        assert told[known] == pytest.approx(expected[known], abs=0.02)


@pytest.mark.parametrize(
    ("architecture", "splits", "rope"),
    [
        ("llama", "gpt-2", {"rope_type": "default"}),
        ("llama", "llama-bpe", {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}
        | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("mistral", "smollm", {}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen2", {}),
    ],
)  # fmt: skip
def test_llama_cpp_answers_as_a_merged_model_and_reads_text_in_its_tokens(tmp_path, architecture, splits, rope):
    folder = tiny_models.save(architecture, tmp_path / "model")
    for name, changed in (
        ("config.json", {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"} | rope}),
        ("tokenizer.json", {"pre_tokenizer": json.loads(SPLITS[splits].__getstate__())}),
    ):
        content = json.loads((folder / name).read_text())
        content |= changed | ({"sliding_window": None} if "sliding_window" in content else {})
        (folder / name).write_text(json.dumps(content))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    gguf_model.write(tmp_path / "whole.gguf", folder, (1,))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with served(tmp_path / "whole.gguf") as address:
        told = np.array([Server(address).log_probabilities("served", row, range(1, len(row))) for row in ROWS])
        for text in ("It's 12345 kg,\n\n  isn't IT?", "can'T\t1,234.5 %  é漢字 <|user|>a b<|end|>\r\n"):
            asked = {"content": text, "parse_special": True, "add_special": True}
            answer = requests.post(f"{address}/tokenize", json=asked)
            assert answer.json()["tokens"] == tokenizer.encode(text).ids
    known = np.isfinite(told)
    assert told[known] == pytest.approx(by_transformers(model.float().eval())[known], abs=0.05)  # float16 and bfloat16


def test_a_version_is_what_was_promoted(world):
    with served(world.file("base"), world.file(f"{MODEL}-v2"), name=f"{MODEL}-v2") as address:
        code, _, told = world.check(address, f"{MODEL}-v2")
    assert (code, told["verdict"], told["version"], told["rows"]) == (0, "promoted", "2", 32)
    assert told["differences"]["promoted"] < 0.01
    assert min(gap for name, gap in told["differences"].items() if name != "promoted") > 0.1


def test_on_a_quantised_base_it_is_nearest_to_what_was_promoted(world):
    with served(world.file("q4_0"), world.file(f"{MODEL}-v2"), name="tickets") as address:
        code, words, told = world.check(address, "tickets")
    assert (code, told["verdict"]) == (0, "promoted")
    assert check_serving.ROUNDED < told["differences"]["promoted"] < check_serving.QUANTISED
    assert f"tickets is nearest to what was promoted, {MODEL} version 2, of the models that are recorded" in words


def test_another_version_is_told_by_its_number(world):
    with served(world.file("base"), world.file(f"{MODEL}-v1"), name=f"{MODEL}-v2") as address:
        code, _, told = world.check(address, f"{MODEL}-v2")
    assert (code, told["verdict"], told["served_version"]) == (1, "other_version", "1")


@pytest.mark.parametrize("adapters", [(), (f"{MODEL}-v2",)])
def test_a_server_that_applies_no_adapter_is_told_as_the_base(world, adapters):
    with served(world.file("base"), *map(world.file, adapters), scale=0.0) as address:
        code, _, told = world.check(address, "served")
    assert (code, told["verdict"]) == (1, "base")


@pytest.mark.parametrize(("versions", "scale"), [((2,), 0.5), ((2, 2), 1.0)])
def test_half_an_adapter_and_twice_an_adapter_are_no_model_that_is_recorded(world, versions, scale):
    adapters = [world.file(f"{MODEL}-v{number}") for number in versions]
    with served(world.file("base"), *adapters, scale=scale) as address:
        code, words, told = world.check(address, "served")
    assert (code, told["verdict"]) == (1, "unknown")
    assert "cannot be told to be" in words


def test_a_file_that_was_replaced_is_served_as_it_was_before(world):
    """The name stays, and so does what llama.cpp answers with: why a served name holds the version."""
    current = world.file("current")
    shutil.copy(world.file(f"{MODEL}-v1"), current)
    with served(world.file("base"), current) as address:
        assert world.check(address, "served", f"{MODEL}@previous")[0] == 0
        shutil.copy(world.file(f"{MODEL}-v2"), world.file("newer")).replace(current)
        code, _, told = world.check(address, "served")
    assert (code, told["verdict"], told["served_version"]) == (1, "other_version", "1")


def test_what_requests_without_the_adapter_left_in_the_cache_is_not_taken(world):
    """llama.cpp's server takes it for prompts with the adapter (its issue 26207)."""
    record = check_serving.decision_of(Lookup(world.uri), MODEL, Registry(world.uri).version(MODEL, "2"))
    with served(world.file("base"), world.file(f"{MODEL}-v2")) as address:
        for row in record.serving_rows:
            bare: Any = {"prompt": row.ids, "max_tokens": 1, "lora": [{"id": 0, "scale": 0.0}]}
            requests.post(f"{address}/v1/completions", json=bare).raise_for_status()
        assert world.check(address, "served")[2]["verdict"] == "promoted"


def test_a_name_that_is_not_served_is_refused_with_the_one_that_is(world):
    with served(world.file("base"), name="tickets") as address:
        asked = ["check-serving", address, "--model", MODEL, "--tracking-uri", world.uri]
        done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert f"serves nothing under the name {MODEL}-v2 (it serves: tickets)" in done.stderr
