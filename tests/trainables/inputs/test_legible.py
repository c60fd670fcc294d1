"""What others say is shown in one line, and moves no cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.contract import Failure
from trainables.inputs.legible import legible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe: 8 (e.g. 'r')", "größe: 8 (e.g. 'r')"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("one\ntwo\r\nthree", "one two three"),
        ("\udcff\x00", "\\udcff\\x00"),
        ("right\u202eleft", "right\\u202eleft"),
        ("a" * 10 + "b" * 3_000_000 + "c" * 10, "aaaaaaaaa ... (3000020 characters) ... ccccccccc"),
    ],
)
def test_control_characters_are_escaped_and_a_long_text_is_cut_in_the_middle(text: str, shown: str) -> None:
    assert legible(text, 48) == shown


@given(st.text(st.characters(), max_size=200), st.integers(0, 100))
def test_any_text_becomes_one_printable_line_that_is_bounded_and_comes_out_of_itself(text: str, most: int) -> None:
    shown = legible(text, most)
    assert shown.isprintable()
    shown.encode()
    if most >= 50:
        assert len(shown) <= most
        assert legible(shown, most) == shown
    failure = Failure(kind="failed", message=text)
    assert Failure.model_validate_json(failure.model_dump_json()) == failure
