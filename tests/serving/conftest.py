"""Versions to serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import promotions
import pytest
import tiny_models
from promotions import Trial

from trainables import qlora


@pytest.fixture(scope="session")
def promoted(tmp_path_factory, empty_database) -> Path:
    """A folder with MLflow, where version 2 of a model was promoted over version 1."""
    root = tmp_path_factory.mktemp("promoted")
    shutil.copy(empty_database, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        # vLLM's attention on a CPU takes heads of 32 and more.
        patch.setitem(tiny_models._CONFIGS["llama"], "hidden_size", 128)
        patch.setenv("QSWEEP_CACHE", str(root / "cache"))
        promotions.write_data(root)
        config = promotions.config(root, f"sqlite:///{root}/mlflow.db")
        trained = promotions.train(config, root / "cache")
        prepared = qlora.prepare(config.base, root / "cache").summary.fingerprint
        for number, name in enumerate(("weak", "strong")):
            sweep = root / "results" / name
            promotions.deliver(config, f"{name}-2026010{number}-000000-aaaa", sweep, [Trial(trained[name])], prepared)
            assert promotions.run(sweep).exit_code == 0
    return root
