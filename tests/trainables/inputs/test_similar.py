"""Names that do not exist are met with those that may have been meant."""

from __future__ import annotations

import pytest

from trainables.inputs.similar import did_you_mean


@pytest.mark.parametrize(
    ("name", "most", "hint"),
    [
        ("sead", 1, "; did you mean seed?"),
        ("SEED", 1, "; did you mean seed?"),
        ("steed", 2, "; did you mean seed or Speed?"),
        ("xyz", 1, ""),
        ("", 1, ""),
    ],
)
def test_similar_names_are_offered_the_closest_first(name: str, most: int, hint: str) -> None:
    assert did_you_mean(name, ["Speed", "storage", "seed"], most=most) == hint
    assert did_you_mean(name, [], most=most) == ""


def test_a_name_is_shown_as_the_message_writes_it() -> None:
    assert did_you_mean("qestion", ["question"], shown=lambda name: f"{{{name}}}") == "; did you mean {question}?"
