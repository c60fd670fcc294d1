"""What holds for every test: quiet libraries, no network, few threads, and faults only when they are asked for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Libraries read these when they are imported, here and in the processes that tests start.
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MKL_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What sweeps of tests show of this machine is no evidence for anyone's plan, nor that for theirs.
    "QSWEEP_RATES": str(Path(tempfile.gettempdir()) / f"qsweep-rates-{os.getpid()}" / "rates.json"),
    "OMP_NUM_THREADS": "1",  # the models are tiny: more threads only wait for each other
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

# How long a test takes on a busy machine says nothing of what it tests.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run. To copy: MLflow's migrations take seconds."""
    from sweeps.tracking.client import make_database

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    make_database(f"sqlite:///{file}")
    return file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that inject faults, unless -m speaks of them; files that start Ray come first.

    Each of pytest-xdist's workers begins with its own part of the list: then some wait for Ray while others compute.
    """
    if "chaos" not in config.option.markexpr:
        faults = [item for item in items if any(map(item.get_closest_marker, ("chaos", "chaos_long")))]
        config.hook.pytest_deselected(items=faults)
        items[:] = [item for item in items if item not in faults]
    on_ray = {item.path for item in items if item.get_closest_marker("ray") is not None}
    items.sort(key=lambda item: item.path not in on_ray)
