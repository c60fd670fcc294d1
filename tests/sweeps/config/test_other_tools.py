"""What people type who come from another tool for LoRA is answered with the key here, or with why there is none."""

from __future__ import annotations

import re

import pytest

from sweeps.config import messages, other_tools
from sweeps.config.load import load
from sweeps.errors import ConfigError

WORDS = sorted({*other_tools.KEYS, *other_tools.NOT_HERE})


def known(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return messages.elsewhere(name) == key if section else name in ("storage",)


def test_every_key_that_is_named_exists() -> None:
    named = set(other_tools.KEYS.values())
    for reason in other_tools.NOT_HERE.values():
        named |= set(re.findall(r"\b(?:adapter|training|quantization|data|cluster)\.[a-z_]+", reason))
    assert sorted(key for key in named if not known(key)) == []


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("section", ["training", "adapter", "quantization"])
def test_a_word_is_answered_in_whatever_section_it_stands(tmp_path, word: str, section: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load("toy", [f"{section}.{word}=1"], tmp_path)
    (told,) = [line for line in refused.value.problems if f"{section}.{word}" in line]
    if word in other_tools.KEYS:
        assert f"did you mean {other_tools.KEYS[word]}?" in told
    else:
        assert told == f"{section}.{word}: not supported: {other_tools.NOT_HERE[word]}"


def test_a_searched_field_of_another_tool_is_answered(tmp_path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("trainable: toy\nsearch_space: {adapter.use_qalora: {choice: [true, false]}}\n")
    with pytest.raises(ConfigError, match=r"adapter\.use_qalora.* is not supported: adapters are LoRA, with"):
        load(str(file), [], tmp_path)
