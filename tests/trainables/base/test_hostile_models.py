"""A model's files that are made to break what reads them: an error of ours, in a line."""

from __future__ import annotations

from pathlib import Path

import packs
import pytest
import tiny_models

from trainables.base import base_model
from trainables.data.rendering import Renderer
from trainables.errors import DataError, ModelError
from trainables.specs import DataSpec, ModelSpec

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_models.save("llama", tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", DEEP), ("tokenizer_config.json", '{"a": ' + "9" * 5000 + "}")]
)
def test_a_tokenizer_that_cannot_be_read_is_told(source: Path, tmp_path: Path, name: str, content: str) -> None:
    (source / name).write_text(content)
    spec = packs.spec().model_copy(update={"model": ModelSpec(source=str(source))})
    with pytest.raises(ModelError, match="has no usable tokenizer: "):
        base_model.load_tokenizer(spec, tmp_path / "cache")


@pytest.mark.parametrize("template", ["{% for", "{{ 1 / 0 }}", "{{ messages[9].content.x }}", "{{ messages + 1 }}"])
def test_a_chat_template_that_breaks_is_told(source: Path, tmp_path: Path, template: str) -> None:
    (source / "chat_template.jinja").write_text(template)
    spec = packs.spec().model_copy(update={"model": ModelSpec(source=str(source))})
    data = DataSpec(train="r.jsonl", prompt="{q}", completion="{a}")
    renderer = Renderer(data, base_model.load_tokenizer(spec, tmp_path / "cache"))
    with pytest.raises(DataError, match="the model's chat template refuses the row: "):
        renderer.text({"q": "1", "a": "2"})
