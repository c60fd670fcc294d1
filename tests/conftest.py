"""What holds for every test: quiet libraries, no network, few threads, and faults only when they are asked for."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
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
    "OMP_NUM_THREADS": "1",  # the models are tiny: more threads only wait for each other
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled: importing bitsandbytes imports the whole compiler otherwise
    "TRANSFORMERS_VERBOSITY": "error",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
os.environ.pop("COLUMNS", None)  # the width of the terminal of whoever runs the tests

# How long a test takes on a busy machine says nothing of what it tests.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def rates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What sweeps of tests show of this machine is no evidence for anyone's plan, nor that for theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSWEEP_RATES", str(tmp_path_factory.mktemp("rates") / "rates.json"))
        yield


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that tests run in: an empty one. What sweeps have left in the checkout changes no test."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(autouse=True)
def _leaves_nothing(elsewhere: Path) -> Iterator[None]:
    """A test that writes where it was started would change the next one: it has `tmp_path`."""
    yield
    left = sorted(path.name for path in elsewhere.iterdir())
    for name in left:
        path = elsewhere / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert left == []


@pytest.fixture
def hears_signals() -> Iterator[None]:
    """For a test that sends signals: this process, and those that it starts, hear them as in a terminal's foreground.

    Tests that run under nohup have SIGHUP ignored, those in a shell's background SIGINT; processes hand that down.
    """
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run. To copy: MLflow's migrations take seconds."""
    from sweeps.tracking.client import make_database

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    make_database(f"sqlite:///{file}")
    return file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests of faults and of real clusters, unless -m speaks of them; the longest come first.

    pytest-xdist hands one file after the other to whoever has nothing left (`--dist loadfile`): a long one must not be
    the last, when nobody is left to share its time with.
    """
    for word, markers in (("chaos", ("chaos", "chaos_long")), ("cluster", ("cluster",))):
        if word not in config.option.markexpr:
            left_out = [item for item in items if any(map(item.get_closest_marker, markers))]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
    longest: dict[Path, float] = {}
    for item in items:
        timeout = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), timeout.args[0] if timeout else 0.0)
    items.sort(key=lambda item: -longest[item.path])
