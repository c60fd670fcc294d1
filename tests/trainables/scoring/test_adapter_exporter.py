"""What is exported scores as the adapter did, and each form is what its readers expect."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import safetensors.torch
import tiny_models
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from trainables.errors import ModelError
from trainables.scoring import adapter_exporter, gguf_adapter, gguf_model
from trainables.scoring.requests import ExportRequest, Sample
from trainables.specs import ModelSpec, QuantizationSpec, TrialSpec

ROWS = tuple(Sample(columns={}, ids=tuple(range(5 + n, 25 + n)), labelled=tuple(range(8, 20))) for n in range(4))
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def base(request, tmp_path_factory):
    return tiny_models.save(request.param, tmp_path_factory.mktemp("base") / request.param)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A rank-stabilised adapter, whose scale a reader that divides by r would get wrong."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix != ".md"}


def spec(base, compute_dtype="float32"):
    chosen = QuantizationSpec(scheme="none", compute_dtype=compute_dtype)
    return TrialSpec(model=ModelSpec(source=str(base)), quantization=chosen)


def exported(base, adapter, form, tmp_path, of=None, **fields):
    out = tmp_path / "out"
    out.mkdir(parents=True)
    tokenizer = {name: (base / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    request = ExportRequest(
        form=form, folder=str(out), name="tickets-v3", adapter=adapter, tokenizer=tokenizer, base_files={}, rows=ROWS,
        **fields,
    )  # fmt: skip
    return out, adapter_exporter.export(of or spec(base), request, tmp_path / "cache")


def losses(model):
    """Of each of `ROWS`, by transformers' own loss."""
    found = []
    for row in ROWS:
        labels = [token if place in row.labelled else -100 for place, token in enumerate(row.ids)]
        with torch.no_grad():
            told = model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels]))
        found.append(float(told.loss) * len(row.labelled))
    return found


@pytest.fixture
def promoted(base, adapter, tmp_path):
    (tmp_path / "promoted").mkdir()
    for name, content in adapter.items():
        (tmp_path / "promoted" / name).write_bytes(content)
    return losses(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "promoted").eval())


def test_a_peft_folder_is_the_adapter(base, adapter, promoted, tmp_path):
    out, told = exported(base, adapter, "peft", tmp_path)
    assert {each.name: each.read_bytes() for each in out.iterdir()} == adapter
    assert told.hardware == "cpu float32"
    assert told.row_losses == pytest.approx(promoted, abs=1e-4)


def test_a_merged_model_answers_as_the_adapter_and_stops_where_training_did(base, adapter, promoted, tmp_path):
    out, told = exported(base, adapter, "merged", tmp_path, spec(base, "bfloat16"), ends=(7,))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.dtype, told.hardware) == (torch.bfloat16, "cpu bfloat16")
    assert told.row_losses == pytest.approx(losses(model), rel=0.01)
    assert told.row_losses == pytest.approx(promoted, abs=12 * 0.02)  # bfloat16
    plain = losses(AutoModelForCausalLM.from_pretrained(base))
    assert np.abs(np.subtract(plain, promoted)).mean() > 4 * np.abs(np.subtract(told.row_losses, promoted)).mean()
    assert model.generation_config.eos_token_id == [1, 7]
    assert model.config.use_cache
    assert AutoTokenizer.from_pretrained(out)("a")["input_ids"] == AutoTokenizer.from_pretrained(base)("a")["input_ids"]


def test_what_is_merged_onto_a_base_in_4_bits_answers_as_on_that_base(base, adapter, tmp_path):
    """Merged onto the plain base it is further off than rounding to 16 bits explains."""
    trained = TrialSpec(
        model=ModelSpec(source=str(base)), quantization=QuantizationSpec(scheme="nf4", compute_dtype="float32")
    )
    before = exported(base, adapter, "peft", tmp_path / "peft", trained)[1].row_losses
    out, told = exported(base, adapter, "merged", tmp_path / "merged", trained)
    _, plain = exported(base, adapter, "merged", tmp_path / "plain", spec(base, "bfloat16"))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.dtype, told.hardware) == (torch.bfloat16, "cpu bfloat16")
    assert not hasattr(model.config, "quantization_config")
    assert told.row_losses == pytest.approx(losses(model), rel=0.01)
    off = [np.abs(np.subtract(each.row_losses, before)).mean() for each in (told, plain)]
    assert told.row_losses == pytest.approx(before, abs=12 * 0.02)  # bfloat16
    assert off[1] > 3 * off[0]


def test_dora_is_merged_and_is_no_gguf_adapter(base, tmp_path):
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=LAYERS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    model.save_pretrained(tmp_path / "dora")
    dora = {each.name: each.read_bytes() for each in (tmp_path / "dora").iterdir() if each.suffix != ".md"}
    expected = losses(model.eval())
    assert exported(base, dora, "peft", tmp_path / "peft")[1].row_losses == pytest.approx(expected, abs=1e-4)
    _, told = exported(base, dora, "merged", tmp_path / "merged", spec(base, "bfloat16"))
    assert told.row_losses == pytest.approx(expected, abs=12 * 0.02)  # bfloat16
    assert losses(AutoModelForCausalLM.from_pretrained(base)) != pytest.approx(expected, abs=12 * 0.1)
    with pytest.raises(ModelError, match=r"llama\.cpp has no form for DoRA: add --merged"):
        exported(base, dora, "gguf", tmp_path / "gguf")


def test_a_gguf_file_holds_the_adapter(base, adapter, promoted, tmp_path):
    out, told = exported(base, adapter, "gguf", tmp_path)
    (file,) = out.iterdir()
    assert file.name == "tickets-v3.gguf"
    assert told.row_losses == pytest.approx(promoted, abs=1e-4)
    reader = gguf.GGUFReader(file)
    field = {name: each.contents() for name, each in reader.fields.items()}
    assert (field["general.type"], field["adapter.type"]) == ("adapter", "lora")
    assert field["general.architecture"] == base.name
    # llama.cpp divides by r 4, and training by its root.
    assert field["adapter.lora.alpha"] == pytest.approx(6 * 2)
    assert len(reader.tensors) == 2 * 2 * len(LAYERS)
    stored = {each.name: each.data for each in reader.tensors}
    shapes = stored["blk.1.attn_k.weight.lora_a"].shape, stored["blk.1.attn_k.weight.lora_b"].shape
    assert shapes == ((4, 32), (16, 4))
    trained = safetensors.torch.load(adapter["adapter_model.safetensors"])
    name = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"
    assert np.array_equal(stored["blk.0.attn_v.weight.lora_b"], trained[name].numpy()), "stored in full"


def test_a_gguf_file_holds_base_and_adapter_as_one_model(base, adapter, promoted, tmp_path):
    out, told = exported(base, adapter, "gguf-merged", tmp_path, ends=(1, 7))
    (file,) = out.iterdir()
    assert (file.name, told.hardware) == ("tickets-v3.gguf", "cpu bfloat16")
    assert told.row_losses == pytest.approx(promoted, abs=12 * 0.02)  # bfloat16
    plain = losses(AutoModelForCausalLM.from_pretrained(base))
    assert np.abs(np.subtract(plain, promoted)).mean() > 4 * np.abs(np.subtract(told.row_losses, promoted)).mean()
    fields = {name: each.contents() for name, each in gguf.GGUFReader(file).fields.items()}
    assert fields["general.type"] == "model"
    assert [fields[f"{base.name}.{name}"] for name in ("block_count", "attention.head_count_kv")] == [2, 2]
    ids = [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot")]
    assert (ids, fields["tokenizer.ggml.tokens"][1]) == ([1, 7], tiny_models.EOS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type linear",
        ),
        ({"sliding_window": 8}, "rope_type default with sliding_window 8"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "how the tokenizer splits text"),
    ],
)
def test_a_model_that_llama_cpp_would_read_otherwise_is_not_written(tmp_path, change, told):
    folder = tiny_models.save("mistral", tmp_path / "model")
    change = {"sliding_window": None} | change
    for name in ("config.json", "tokenizer.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {key: change[key] for key in change if key in content}))
    with pytest.raises(ModelError, match=f"{told}.*export --format merged, and convert the folder"):
        gguf_model.write(tmp_path / "x.gguf", folder, ())


def test_what_the_file_holds_is_scored_and_not_what_was_to_be_written(base, adapter, promoted, tmp_path, monkeypatch):
    read = gguf_adapter.read_gguf
    monkeypatch.setattr(gguf_adapter, "read_gguf", lambda *given: (read(*given)[0] / 2, read(*given)[1]))
    _, told = exported(base, adapter, "gguf", tmp_path)
    assert told.row_losses != pytest.approx(promoted, abs=0.5)


def test_rows_of_q_and_k_are_in_the_order_that_llama_cpp_has_them_in():
    """transformers turns them back when it reads a GGUF base: its own function undoes ours."""
    rows = np.arange(32 * 3, dtype=np.float32).reshape(32, 3)
    permuted = rows[gguf_adapter._permuted(32, 4)]
    assert not np.array_equal(permuted, rows)
    assert np.array_equal(LlamaTensorProcessor()._reverse_permute_weights(permuted, 4, None), rows)


def test_an_architecture_without_a_form_is_refused_with_the_way_out(adapter, tmp_path):
    base = tiny_models.save("gpt2", tmp_path / "gpt2")
    tensors = {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": np.zeros((4, 32), np.float32)}
    with pytest.raises(ModelError, match=r"models of type gpt2 are not written as GGUF.*export --format merged"):
        gguf_adapter.write(tmp_path / "x.gguf", json.loads((base / "config.json").read_text()), {"r": 4}, tensors)


def test_a_base_with_other_weights_is_refused(base, adapter, tmp_path):
    request = ExportRequest(
        form="peft", folder=str(tmp_path), name="x", adapter=adapter, tokenizer={}, rows=ROWS,
        base_files={"model.safetensors": "0" * 64},
    )  # fmt: skip
    with pytest.raises(ModelError, match="holds other weights than the version was promoted on"):
        adapter_exporter.export(spec(base), request, tmp_path / "cache")
