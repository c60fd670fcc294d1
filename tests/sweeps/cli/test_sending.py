"""What was sent with a submitted sweep is sent again when it is resumed, as long as it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import Dashboard, dashboard
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app


class Cluster:
    """A cluster that has forgotten all its jobs."""

    def __init__(self, board: Dashboard) -> None:
        self.board = board

    def run(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words, "--address", self.board.address, "--detach"])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.board.jobs.clear()
        return result.exit_code, result.stderr

    def submit(self, *words: str, name: str = "x-1") -> None:
        code, told = self.run("submit", "s.yaml", "--submission-id", name, *words)
        assert code == 0, told

    def sent(self) -> list[dict[str, bytes]]:
        """Of each job, path -> content of the files that travelled with it, but for the code."""
        brought = [self.board.brought(number) for number in range(len(self.board.submitted))]
        return [{name: text for name, text in each.items() if name.startswith("submitted/")} for each in brought]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("QSWEEP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_rows(Path.cwd())
    Path("s.yaml").write_text(QLORA)
    with dashboard() as started:
        yield Cluster(started)


def test_whether_to_start_without_mlflow_travels_with_the_sweep(cluster: Cluster) -> None:
    """The address is one of the cluster's: it is looked at there."""
    for offline in ([], ["--offline"]):
        cluster.submit("tracking.uri=http://127.0.0.1:1", *offline)
        assert cluster.board.words()[3:] == [*offline, "--json"]


def test_the_same_files_travel_again_with_a_sweep_that_is_named_by_its_id_or_mirror(cluster: Cluster) -> None:
    cluster.submit("storage=s3://bucket/p")
    for sweep in ("x-1", "s3://bucket/p/x/"):
        code, told = cluster.run("resume", sweep)
        assert (code, "sent with x-1, travel again, for nodes that lack them" in told) == (0, True), told
    first, *again = cluster.sent()
    assert again == [first, first]
    assert len(first) > 1


def test_files_that_have_changed_or_are_gone_are_not_sent_and_it_is_said(cluster: Cluster) -> None:
    cluster.submit()
    rows = next(path for path in sorted(Path.cwd().rglob("*.jsonl")))
    content = rows.read_bytes()
    rows.write_bytes(content + content)
    assert "not sent again: they have changed here since" in cluster.run("resume", "x-1")[1]
    rows.unlink()
    assert f"not sent again: {rows} cannot be read: No such file" in cluster.run("resume", "x-1")[1]
    rows.write_bytes(content)
    cluster.run("resume", "x-1")
    first, *others = cluster.sent()
    assert others == [{}, {}, first]


def test_a_sweep_that_sent_none_says_so(cluster: Cluster, tmp_path: Path) -> None:
    code, told = cluster.run("submit", "toy", "--submission-id", "toy-1")
    assert code == 0, told
    assert not (tmp_path / "cache" / "sent").exists()
    told = cluster.run("resume", "toy-1")[1]
    assert "no files travel: this machine has sent none with toy-1; a data file" in told
    assert "if they were sent from here, name the sweep by its id" in told
    assert cluster.sent()[1:] == [{}]
