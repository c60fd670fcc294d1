"""YAML as people mean it, and mistakes in it with their place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config import yaml_files
from sweeps.errors import ConfigError

NUMBERS = {"2E-4": 0.0002, "+1e3": 1000.0, "-.5e3": -500.0, "1.e2": 100.0, "0.5": 0.5, ".inf": math.inf, "0x10": 16}
# A commit hash, names and a file; old numbers, in quotes.
TEXTS = {text: text for text in ("7e3abcd", "1e5-run", "e5", "2e", "1e5.jsonl", "08")} | {
    "'010'": "010",
    '"1:30"': "1:30",
}
MERGED = {"{a: &a {r: 8, x: true}, b: {<<: *a, r: 16}}": {"a": {"r": 8, "x": True}, "b": {"r": 16, "x": True}}}


@pytest.mark.parametrize(("text", "value"), (NUMBERS | TEXTS | MERGED).items())
def test_values_are_what_people_mean(text: str, value: object) -> None:
    found = yaml_files.parse(text)
    assert (found, type(found)) == (value, type(value))


MISTAKES = [
    ("name: 2026-13-01\n", "line 1, column 7: '2026-13-01' is not what it looks like (month must be in 1..12)"),
    ("a: !!python/object:os.system x\n", "line 1, column 4: could not determine a constructor for the tag"),
    ("a: *b\n", "line 1, column 4: the alias *b stands for nothing that ends before the alias"),
    ("a: 010\n", "line 1, column 4: '010' is the number 8 in YAML: write the number without zeros before it and"),
    ("a: 1:30\n", "line 1, column 4: '1:30' is the number 90 in YAML: "),
    ("a: !!set [1]\n", "line 1, column 4: expected a mapping node"),
    (f"a: 1{':59' * 50_000}\n", "line 1, column 4: a value of "),
    ('a: "\\ud800"\n', "line 1, column 4: text cannot hold the character '\\ud800'"),
    ("a: &a [*a]\n", "line 1, column 8: the alias *a stands for nothing that ends before the alias"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:30] for text, _ in MISTAKES])
def test_a_mistake_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        yaml_files.read_yaml(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: not valid YAML: {message}")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"# a comment\n", "is a mapping that begins"), (b"x", "is a map"), (b"\xff", "cannot be read")],
)
def test_what_is_no_mapping_in_utf_8_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        yaml_files.read_yaml(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        yaml_files.read_yaml(path)


def test_what_is_as_deep_and_as_long_as_may_be_is_read() -> None:
    assert yaml_files.parse("[" * 49 + "1" + "]" * 49)
    assert len(yaml_files.parse("[" + "8," * 9_999 + "]")) == 9_999
    assert yaml_files.parse("9" * 1000) == int("9" * 1000)


def test_a_file_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes("\ufeffname: größe\n".encode())
    assert yaml_files.read_yaml(path) == {"name": "größe"}


@given(st.integers(2, 12), st.integers(2, 9), st.booleans())
def test_values_that_aliases_multiply_are_counted_before_they_are_built(levels: int, times: int, merge: bool) -> None:
    lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [1]"]
    for level in range(1, levels):
        aliases = "[" + ",".join([f"*a{level - 1}"] * times) + "]"
        lines.append(f"a{level}: &a{level} " + (f"{{<<: {aliases}}}" if merge else aliases))
    text = "\n".join(lines)
    if times ** (levels - 1) > yaml_files.MOST_VALUES:
        with pytest.raises(yaml.YAMLError, match="more than 10000 keys and values"):
            yaml_files.parse(text)
    elif times ** (levels - 1) < yaml_files.MOST_VALUES / 10:
        assert len(yaml_files.parse(text)) == levels
