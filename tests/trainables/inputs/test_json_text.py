"""JSON that is spoilt is told, whatever is wrong with it."""

from __future__ import annotations

import json

import pytest

from trainables.inputs import json_text


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


@pytest.mark.parametrize(
    "raw", ['{"a": [1, 2.5, null, "x"]}', b"\xef\xbb\xbf[1]", nested(json_text.DEPTH), "[" + "[1]," * 500 + "1]"]
)
def test_json_is_read(raw: str | bytes) -> None:
    assert json_text.parse(raw) == json.loads(raw)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ('[{"a":', "")])
@pytest.mark.parametrize("depth", [json_text.DEPTH + 1, 100_000])
def test_what_is_nested_too_deep_is_told(opening: str, closing: str, depth: int) -> None:
    with pytest.raises(ValueError, match=r"nested more than 100 deep|Expecting"):
        json_text.parse(nested(depth, opening, closing))


@pytest.mark.parametrize("raw", ["", "{", b"\xff", "9" * 5000, "[" * 50])
def test_what_is_no_json_is_told(raw: str | bytes) -> None:
    with pytest.raises(ValueError):
        json_text.parse(raw)


@pytest.mark.parametrize("raw", ['{"a": 1, "b": 2, "a": 3}', '[{"b": [{"a": 1, "a": 1}]}]'])
def test_a_key_that_stands_twice_is_told_on_request(raw: str) -> None:
    assert json_text.parse(raw) == json.loads(raw)
    with pytest.raises(ValueError, match="it has the key 'a' twice in one object"):
        json_text.parse(raw, unique_keys=True)
    assert json_text.parse('[{"a": 1}, {"a": {"a": 2}}]', unique_keys=True) == [{"a": 1}, {"a": {"a": 2}}]
