"""MLflow with sweeps in it, made once and copied for each test."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def promoted(shared, tmp_path_factory) -> Path:
    """The same, with the weak adapter of `first` as the champion, to copy."""
    return with_promoted(shared, tmp_path_factory.mktemp("promoted"), shared / "cache", "first")


@pytest.fixture(scope="session")
def promoted_twice(promoted, shared, tmp_path_factory) -> Path:
    """The same, with the strong adapter of `second` promoted over it, to copy."""
    return with_promoted(promoted, tmp_path_factory.mktemp("twice"), shared / "cache", "second")


@pytest.fixture(scope="session")
def promoted_strong(shared, tmp_path_factory) -> Path:
    """The strong adapter of `second` as the first champion, to copy."""
    return with_promoted(shared, tmp_path_factory.mktemp("strong"), shared / "cache", "second")


def with_promoted(source: Path, target: Path, cache: Path, name: str) -> Path:
    made = copy_of(source, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSWEEP_CACHE", str(cache))
        assert run(made.sweep(name)).exit_code == 0
    return target


@pytest.fixture
def here(shared, tmp_path, monkeypatch) -> Path:
    """The current folder, and what the sweeps have cached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QSWEEP_CACHE", str(shared / "cache"))
    return tmp_path


@pytest.fixture
def world(shared, here) -> World:
    """MLflow and its sweeps, and nothing promoted."""
    return copy_of(shared, here)


@pytest.fixture
def champion(promoted, here) -> World:
    """The same, with the weak adapter as version 1, the champion."""
    return copy_of(promoted, here)


@pytest.fixture
def replaced(promoted_twice, here) -> World:
    """The same, with the strong adapter as version 2, the champion, and version 1 as the previous one."""
    return copy_of(promoted_twice, here)


@pytest.fixture
def strong(promoted_strong, here) -> World:
    """MLflow and its sweeps, with the strong adapter as version 1, the champion."""
    return copy_of(promoted_strong, here)
