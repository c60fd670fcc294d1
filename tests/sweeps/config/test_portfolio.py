"""The points of a portfolio are whole points of the space; those of a named space go where the user changed it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mistakes import run
from sweep_files import TOY

import search_spaces
from sweeps.config.load import Sweep, load

SPACE = """
search_space:
  adapter.r: {choice: [4, 8, 16]}
  training.learning_rate: {loguniform: [1.0e-5, 1.0e-2]}
  portfolio: [{adapter.r: 4}, {training.learning_rate: 1.0e-3}]
searcher: {kind: prior}
"""
NARROWED = ["search_space=lora_core", "searcher.kind=prior", "search_space.adapter.r={choice: [16, 64]}"]
LEFT_OUT = "search_space.portfolio: 3 of its 4 points do not fit the changed fields and are left out"


def loaded(folder: Path, text: str, *changes: str) -> Sweep:
    (folder / "s.yaml").write_text(TOY + text)
    return load("s.yaml", changes, folder)


def test_a_field_that_a_point_leaves_out_gets_the_files_own_value(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, SPACE, "adapter.r=16", "training.learning_rate=3.0e-4")
    points = [
        {"adapter.r": 4, "training.learning_rate": 3e-4},
        {"adapter.r": 16, "training.learning_rate": 1e-3},
    ]
    assert list(sweep.space.portfolio) == points
    searcher = sweep.config.searcher.build(sweep.space, 0)
    assert [searcher.suggest(), searcher.suggest()] == points
    assert sweep.config.search_space == sweep.space.to_raw()
    assert sweep.notices == ()


@pytest.mark.parametrize("name", ["lora_core", "lora_wide"])
def test_a_named_space_keeps_its_portfolio(tmp_path: Path, name: str) -> None:
    sweep = loaded(tmp_path, "", f"search_space={name}", "searcher.kind=prior")
    assert sweep.space.portfolio == search_spaces.load(name).portfolio
    assert sweep.notices == ()


def test_points_of_a_named_space_that_no_longer_fit_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, "", *NARROWED)
    assert [point["adapter.r"] for point in sweep.space.portfolio] == [16]
    assert sweep.notices == (LEFT_OUT,)
    code, lines, _ = run("validate", str(tmp_path / "s.yaml"), *NARROWED)
    assert code == 0 and f"warning: {LEFT_OUT}" in lines


def test_nothing_is_said_to_a_searcher_that_does_not_use_the_portfolio(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", *NARROWED, "searcher.kind=random").notices == ()


def test_a_named_spaces_points_get_the_files_value_of_a_field_that_the_user_added(tmp_path: Path) -> None:
    added = "search_space.training.batch_size={choice: [4, 8]}"
    sweep = loaded(tmp_path, "", "search_space=lora_core", "searcher.kind=prior", added)
    assert [point["training.batch_size"] for point in sweep.space.portfolio] == [4] * 4
    assert sweep.notices == ()
