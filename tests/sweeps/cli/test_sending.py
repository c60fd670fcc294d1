"""What was sent with a submitted sweep is sent again when it is resumed, as long as it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_dashboards import Dashboard, dashboard
from sweep_files import QLORA, write_rows
from typer.testing import CliRunner

from sweeps.cli import app

NAME = "x" if "name: x" in QLORA else QLORA.split("name: ")[1].split()[0]


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


@pytest.mark.parametrize("sweep", ["x-1", "s3://bucket/p/NAME", "NAME", "~/results/NAME", "/data/results/NAME-2/"])
def test_the_same_files_travel_again(cluster: Cluster, sweep: str) -> None:
    cluster.submit("storage=s3://bucket/p")
    code, told = cluster.run("resume", sweep.replace("NAME", NAME))
    assert (code, "sent with x-1, travel again, for nodes that lack them" in told) == (0, True), told
    first, again = cluster.sent()
    assert again == first
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


def test_a_sweep_that_sent_none_or_was_submitted_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    code, told = cluster.run("submit", "toy", "--submission-id", "toy-1")
    assert code == 0, told
    assert not (tmp_path / "cache" / "sent").exists()
    for sweep in ("toy-1", "y-1"):
        said = f"no files travel: this machine has sent none with {sweep}; a data file"
        assert said in cluster.run("resume", sweep)[1]
    assert cluster.sent()[1:] == [{}, {}]


def test_a_folder_or_mirror_that_no_note_fits_is_not_said_to_have_sent_none_for_sure(cluster: Cluster) -> None:
    cluster.submit("storage=s3://bucket/p")
    for sweep in ("~/results/renamed", f"s3://other/p/{NAME}"):
        assert "if they were sent from here, name the sweep by its id" in cluster.run("resume", sweep)[1]
    assert cluster.sent()[1:] == [{}, {}]


def test_of_several_sweeps_of_a_name_the_files_of_the_last_one_travel(cluster: Cluster) -> None:
    cluster.submit()
    rows = next(path for path in sorted(Path.cwd().rglob("*.jsonl")))
    rows.write_bytes(rows.read_bytes() + b"\n")
    cluster.submit(name="x-2")
    for sweep in (NAME, f"~/results/{NAME}-2"):
        assert "sent with x-2, travel again" in cluster.run("resume", sweep)[1]
    assert "sent with x-1, and not sent again: they have changed" in cluster.run("resume", "x-1")[1]


def test_an_id_that_is_refused_keeps_the_note_of_its_sweep(cluster: Cluster) -> None:
    cluster.submit()
    cluster.board.answers = lambda method, _path: (400, "another job") if method == "POST" else None
    Path("other.jsonl").write_text(next(Path.cwd().rglob("*.jsonl")).read_text())
    code, _ = cluster.run("submit", "s.yaml", "data.train=other.jsonl", "--submission-id", "x-1")
    cluster.board.answers = lambda _method, _path: None
    told = cluster.run("resume", "x-1")[1]
    assert (code, "sent with x-1, travel again" in told) == (2, True), told
    first, again = cluster.sent()
    assert again == first
