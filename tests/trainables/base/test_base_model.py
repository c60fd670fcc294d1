"""The frozen base: made once per machine, in the precision asked for, and refused where it would couple trials."""

from __future__ import annotations

import multiprocessing
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import data_rows
import packs
import pytest
import tiny_models
import torch
from safetensors import SafetensorError
from tiny_models import trial_on
from transformers import PreTrainedModel

from trainables.base import base_checks, base_model, devices
from trainables.contract import StepRecord
from trainables.data.rendering import Renderer
from trainables.errors import DataError, ModelError, TrainableError
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("model"))


def test_a_base_in_four_bits_trains(source: Path, tmp_path: Path) -> None:
    spec = trial_on(source, scheme="fp4")  # other tests have nf4
    loaded = base_model.load(spec, tmp_path)
    layers = [module for module in loaded.model.modules() if type(module).__name__ == "Linear4bit"]
    assert {layer.weight.quant_type for layer in layers} == {"fp4"}
    pack = packs.pack(loaded)
    pack.open(0, spec)
    before = pack.evaluate([0])[0]
    record = pack.step([0])[0]
    assert isinstance(record, StepRecord) and record.grad_norm > 0
    assert pack.evaluate([0])[0] != before


def test_two_sweeps_at_once_make_the_quantised_base_once(source: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # the libraries are there: importing them takes seconds
    both = [context.Process(target=base_model.load, args=(trial_on(source), tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(200)
    assert [process.exitcode for process in both] == [0, 0]
    (made,) = [path for path in (tmp_path / "bases").iterdir() if path.is_dir()]
    assert (made / "config.json").is_file()


def test_a_cache_without_room_is_told_with_the_way_out(source, tmp_path, monkeypatch):
    """A base is what fills a disk; safetensors writes it, and its error is no OSError."""
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", Mock(side_effect=full))
    with pytest.raises(TrainableError, match=rf"^{tmp_path}/bases: the cache cannot be written: .*os error 28.*CACHE$"):
        base_model.load(trial_on(source), tmp_path)
    assert [path.suffix for path in (tmp_path / "bases").iterdir()] == [".lock"]


def test_an_edited_chat_template_is_read_though_the_quantised_base_is_made_already(source, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    spec = trial_on(folder)
    given_back: list[bool] = []
    monkeypatch.setattr(devices, "give_back", lambda: given_back.append(True))
    base_model.load_tokenizer(spec, tmp_path)
    assert given_back == [True], "the memory in which it was quantised"
    with monkeypatch.context() as patch:
        patch.setattr(base_model, "_make", None)
        (folder / "chat_template.jinja").write_text("edited")
        assert base_model.load_tokenizer(spec, tmp_path).chat_template == "edited"


def test_edited_code_of_a_model_makes_another_quantised_base(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    model = ModelSpec(source=str(folder), trust_remote_code=True)
    spec = trial_on(folder).model_copy(update={"model": model})
    keys = {base_model._key(spec, "torch.float32")}
    for text in ("x = 1", "x = 2"):
        (folder / "modeling_own.py").write_text(text)
        keys.add(base_model._key(spec, "torch.float32"))
    assert len(keys) == 3


@pytest.mark.parametrize("cuda_has_it", [True, False])
def test_auto_is_bfloat16_on_gpus_that_have_it_and_float32_on_every_cpu(monkeypatch, cuda_has_it):
    # What oneDNN says of every CPU with AVX-512, where it emulates bfloat16.
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0) if cuda_has_it else (7, 5))
    expected = {"float16": torch.float16, "bfloat16": torch.bfloat16, "auto": torch.float32}
    for device in ("cpu", "cuda"):
        asked = expected | ({"auto": torch.bfloat16} if device == "cuda" and cuda_has_it else {})
        for dtype, chosen in asked.items():
            quantization = QuantizationSpec.model_validate({"compute_dtype": dtype})
            assert devices.compute_dtype(quantization, torch.device(device)) == chosen


@pytest.mark.parametrize(
    ("rope", "max_length", "is_refused"),
    [
        ({"rope_type": "default"}, 500, False),
        ({"rope_type": "dynamic", "factor": 2.0}, 64, False),
        ({"rope_type": "dynamic", "factor": 2.0}, 65, True),
        ({"rope_type": "longrope", "original_max_position_embeddings": 32}, 33, True),
        ({"full_attention": {"rope_type": "dynamic"}}, 65, True),
    ],
)
def test_rows_that_would_couple_trials_through_their_positions_are_refused(rope, max_length, is_refused) -> None:
    model = SimpleNamespace(config=SimpleNamespace(rope_parameters=rope, max_position_embeddings=64))
    data = DataSpec(train="rows.jsonl", text="{text}", max_length=max_length)
    spec = TrialSpec(model=ModelSpec(source="some/model"), data=data)
    refusal = pytest.raises(ModelError, match=r"data\.max_length: \d+ is beyond the \d+ positions")
    with refusal if is_refused else nullcontext():
        base_checks.refuse_moving_positions(model, spec)


# Files that are made to break what reads them: an error of ours, in a line.

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", DEEP), ("tokenizer_config.json", '{"a": ' + "9" * 5000 + "}")]
)
def test_a_tokenizer_that_cannot_be_read_is_told(source: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match="has no usable tokenizer: "):
        base_model.load_tokenizer(trial_on(folder), tmp_path / "cache")


@pytest.mark.parametrize("template", ["{% for", "{{ 1 / 0 }}", "{{ messages[9].content.x }}", "{{ messages + 1 }}"])
def test_a_chat_template_that_breaks_is_told(source: Path, tmp_path: Path, template: str) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template)
    spec = trial_on(folder, scheme="none")
    renderer = Renderer(data_rows.spec("r.jsonl"), base_model.load_tokenizer(spec, tmp_path / "cache"))
    with pytest.raises(DataError, match="the model's chat template refuses the row: "):
        renderer.text({"question": "1", "answer": "2"})
