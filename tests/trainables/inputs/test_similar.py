"""Names that do not exist are met with those that may have been meant."""

from __future__ import annotations

import pytest

from trainables.inputs.similar import closest, did_you_mean


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sead", "; did you mean seed?"),
        ("SEED", "; did you mean seed?"),
        ("steed", "; did you mean seed or Speed?"),
        ("xyz", ""),
        ("", ""),
    ],
)
def test_similar_names_are_offered_the_closest_first(name: str, hint: str) -> None:
    assert did_you_mean(name, ["Speed", "storage", "seed"], most=2 if name == "steed" else 1) == hint


def test_nothing_is_similar_where_there_is_nothing() -> None:
    assert closest("seed", []) == []


def test_a_name_is_shown_as_the_message_writes_it() -> None:
    assert did_you_mean("qestion", ["question"], shown=lambda name: f"{{{name}}}") == "; did you mean {question}?"
