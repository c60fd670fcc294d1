"""MLflow with sweeps in it, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import promotions
import pytest
from promotion_worlds import FAILED, FIRST, ODD, SECOND, TWIN, copy_of
from promotions import Trial, run

from sweeps.record.events import TrialState
from trainables import qlora


class Trained(NamedTuple):
    """A base, rows, and adapters that were trained on them."""

    root: Path
    adapters: Mapping[str, promotions.Trained]
    fingerprint: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    root = tmp_path_factory.mktemp("promotion")
    promotions.write_data(root, odd_rows=60)
    config = promotions.config(root, "sqlite:///none.db")
    adapters = promotions.train(config, root / "cache")
    return Trained(root, adapters, qlora.prepare(config.base, root / "cache").summary.fingerprint)


@pytest.fixture(scope="session")
def shared(trained, empty_database) -> Path:
    """A folder with sweeps in MLflow, to copy.

    `first` has a weak adapter; `second` a strong one and trials that must not be promoted; `odd` one that is better on
    the rows that the search saw and worse on all; `failed` a strong one whose trial failed.
    """
    root = trained.root
    shutil.copy(empty_database, root / "mlflow.db")
    config = promotions.config(root, f"sqlite:///{root}/mlflow.db")
    weak, strong = trained.adapters["weak"], trained.adapters["strong"]
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
        of = of.model_copy(update={"name": name})
        promotions.deliver(of, sweep_id, root / "results" / name, trials, trained.fingerprint)
    return root


STAGES = {"champion": ("world", "first"), "replaced": ("champion", "second"), "strong": ("world", "second")}
"""Stage -> the stage before, and the sweep that is promoted then; in the world nothing is promoted.

In `champion` version 1 has the weak adapter, which in `replaced` is the previous one and version 2, with the strong
adapter, the champion. In `strong` that is version 1.
"""


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
def here(trained, tmp_path, monkeypatch) -> Path:
    """The current folder, and what the sweeps have cached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QSWEEP_CACHE", str(trained.root / "cache"))
    return tmp_path


def copied(stage: str):
    """A fixture: a copy of MLflow and its sweeps at a stage."""
    return pytest.fixture(name=stage)(lambda stages, here: copy_of(stages(stage), here))


world = copied("world")
champion = copied("champion")
replaced = copied("replaced")
strong = copied("strong")
