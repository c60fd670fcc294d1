"""Tokenizers that give a row other tokens are told apart, and those that do not are not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import tiny_models

from trainables.scoring.tokenizer_files import difference

Files = dict[str, bytes]
TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
TOKEN = {"__type": "AddedToken", "content": tiny_models.EOS}
"""As earlier versions of transformers write it."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_models.tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edited(file: str, change: Callable[[dict], None]) -> Callable[[Files], Files]:
    """Changes a JSON file and writes it in another form."""

    def edit(files: Files) -> Files:
        document = json.loads(files[file])
        change(document)
        return {**files, file: json.dumps(document).encode()}

    return edit


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda files: {**files, "chat_template.jinja": files["chat_template.jinja"] + b" "}, "chat template"),
        (lambda files: {k: v for k, v in files.items() if k != "chat_template.jinja"}, "chat template"),
        (edited("tokenizer.json", lambda rules: rules["model"]["merges"].pop()), "tokenizer"),
        (edited("tokenizer_config.json", lambda settings: settings.update(eos_token="<|user|>")), "tokenizer"),
        (lambda files: {**files, "tokenizer.json": b"{}"}, "tokenizer"),
        # Nothing that a row's tokens depend on.
        (lambda files: files, None),
        (edited("tokenizer.json", lambda rules: rules.update(truncation=TRUNCATION)), None),
        (edited("tokenizer_config.json", lambda settings: settings.update(eos_token=TOKEN)), None),
        (edited("tokenizer_config.json", lambda settings: settings.update(padding_side="left")), None),
    ],
)
def test_what_a_row_depends_on_tells_tokenizers_apart(saved: Files, edit, part: str | None) -> None:
    assert difference(edit(saved), saved, of_chats=True) == part


def test_a_text_passes_through_no_chat_template_and_line_ends_do_not_tell_templates_apart(saved: Files) -> None:
    """Transformers saves them as they are and loads all as a newline, as jinja does."""
    one, other, another = (
        {**saved, "chat_template.jinja": content} for content in (b"{{ a }}\r\nb", b"{{ a }}\nb", b"another")
    )
    assert difference(one, other, of_chats=True) is None
    assert difference(one, another, of_chats=False) is None


def test_files_that_are_no_fast_tokenizer_are_compared_as_they_are() -> None:
    files = {"tokenizer.model": b"1", "tokenizer_config.json": b"{}"}
    assert difference(files, {**files, "tokenizer_config.json": b'{"padding_side": "left"}'}, of_chats=True) is None
    assert difference(files, {**files, "tokenizer.model": b"2"}, of_chats=True) == "tokenizer"
