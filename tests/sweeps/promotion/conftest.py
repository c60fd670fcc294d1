"""MLflow with sweeps in it, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import promotions
import pytest
from promotion_worlds import FAILED, FIRST, ODD, SECOND, TWIN, World, copy_of
from promotions import Trial, run

from sweeps.record.events import TrialState
from trainables import qlora


@pytest.fixture(scope="session")
def shared(tmp_path_factory, empty_database) -> Path:
    """A folder with sweeps in MLflow, to copy.

    `first` has a weak adapter; `second` a strong one and trials that must not be promoted; `odd` one that is better on
    the rows that the search saw and worse on all; `failed` a strong one whose trial failed.
    """
    root = tmp_path_factory.mktemp("promotion")
    shutil.copy(empty_database, root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    promotions.write_data(root, odd_rows=60)
    config = promotions.config(root, uri)
    trained = promotions.train(config, root / "cache")
    weak, strong = trained["weak"], trained["strong"]
    fingerprint = qlora.prepare(config.base, root / "cache").summary.fingerprint
    assert config.data is not None
    untested = config.data.model_copy(update={"test": None})
    for name, sweep_id, trials, of in (
        ("first", FIRST, [Trial(weak)], config),
        ("second", SECOND, [
            Trial(weak, TrialState.STOPPED), Trial(strong), Trial(strong, TrialState.DIVERGED, 0.5),
            Trial(strong, TrialState.FAILED, 0.5), Trial(strong, TrialState.PAUSED, 0.5),
        ], config),
        ("twin", TWIN, [Trial(strong)], config),
        ("failed", FAILED, [Trial(strong, TrialState.FAILED)], config),
        ("odd", ODD, [Trial(strong)], config.model_copy(update={"data": untested})),
    ):  # fmt: skip
        promotions.deliver(of.model_copy(update={"name": name}), sweep_id, root / "results" / name, trials, fingerprint)
    return root


STAGES = {"champion": ("world", "first"), "replaced": ("champion", "second"), "strong": ("world", "second")}
"""Stage -> the stage before, and the sweep that is promoted then."""


@pytest.fixture(scope="session")
def stages(shared, tmp_path_factory) -> Callable[[str], Path]:
    """Makes a stage when it is first asked for; its folder, to copy."""

    @cache
    def made(stage: str) -> Path:
        if stage == "world":
            return shared
        before, sweep = STAGES[stage]
        there = copy_of(made(before), tmp_path_factory.mktemp(stage))
        assert run(there.sweep(sweep)).exit_code == 0
        return there.root

    return made


@pytest.fixture
def here(shared, tmp_path, monkeypatch) -> Path:
    """The current folder, and what the sweeps have cached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QSWEEP_CACHE", str(shared / "cache"))
    return tmp_path


@pytest.fixture
def world(stages, here) -> World:
    """MLflow and its sweeps, and nothing promoted."""
    return copy_of(stages("world"), here)


@pytest.fixture
def champion(stages, here) -> World:
    """The same, with the weak adapter as version 1, the champion."""
    return copy_of(stages("champion"), here)


@pytest.fixture
def replaced(stages, here) -> World:
    """The same, with the strong adapter as version 2, the champion, and version 1 as the previous one."""
    return copy_of(stages("replaced"), here)


@pytest.fixture
def strong(stages, here) -> World:
    """MLflow and its sweeps, with the strong adapter as version 1, the champion."""
    return copy_of(stages("strong"), here)
