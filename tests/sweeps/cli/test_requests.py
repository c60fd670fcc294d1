"""The words of `qsweep add` and `qsweep extend` are read as a sweep file's values are, and mistakes are told."""

from __future__ import annotations

import os

import pytest

from sweeps.cli.requests import values_of
from sweeps.errors import ConfigError

OLD = "write the number without zeros before it and without colons, or put it in quotes"
NO_JSON = "must be a finite number, true, false, null, text (a date needs quotes), or a list of such values"


def test_values_are_yaml() -> None:
    words = ["r=8", "learning_rate=2e-4", "target_modules=[q_proj, v_proj]", "budget.wall_clock=null", "x=1h"]
    assert values_of(words) == {
        "r": 8,
        "learning_rate": 2e-4,
        "target_modules": ["q_proj", "v_proj"],
        "budget.wall_clock": None,
        "x": "1h",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["r"], "r: is not KEY=VALUE"),
        (["r=["], "r: '[' is not a YAML value"),
        (["r=010"], f"r: '010' is the number 8 in YAML: {OLD}"),
        (["r=8", "r=16"], "r: stands twice"),
        (["budget.gpu_hours=.nan"], f"budget.gpu_hours: '.nan' {NO_JSON}"),
        (["cluster.hosts=.inf"], f"cluster.hosts: '.inf' {NO_JSON}"),
        (["target_modules=[q_proj, -.inf]"], f"target_modules: '[q_proj, -.inf]' {NO_JSON}"),
        (["learning_rate=!!binary gGE="], f"learning_rate: '!!binary gGE=' {NO_JSON}"),
        (["schedule=2026-01-01"], f"schedule: '2026-01-01' {NO_JSON}"),
        (["target_modules=!!set {q_proj}"], f"target_modules: '!!set {{q_proj}}' {NO_JSON}"),
        (["x={2026-01-01: 1}"], f"x: '{{2026-01-01: 1}}' {NO_JSON}"),
        ([os.fsdecode(b"r=\xff")], r"'r=\udcff': holds bytes that are not UTF-8"),
    ],
)
def test_a_word_that_is_no_value_is_told(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values_of(words)
    assert list(caught.value.problems) == [told]
