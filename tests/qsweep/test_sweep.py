"""A sweep is read from its folder, and importing qsweep is light."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import python_imports
import report_sweeps as sweeps
import two_sweeps

import qsweep as qs
from qsweep._words import with_keywords
from sweeps.cli.compare import compare
from sweeps.errors import ConfigError, StorageError, SweepError
from sweeps.record.folder import SweepFolder
from sweeps.steering import driver_process


@pytest.fixture
def sweep(tmp_path: Path) -> qs.Sweep:
    document = sweeps.config()
    sweeps.write(tmp_path / "results" / "x", sweeps.events(10, document, eval_accuracy=0.5), document)
    return qs.load("x", tmp_path / "results")


def test_importing_it_and_checking_a_sweep_is_light(tmp_path):
    program = """
import sys, qsweep
assert not {"pandas", "numpy", "typer", "rich", "scipy"} & sys.modules.keys()
qsweep.validate("toy")
"""
    assert python_imports.heavy(program, folder=tmp_path) == set()
    assert list(tmp_path.iterdir()) == []


def test_its_names_are_those_of_the_page():
    page = (Path(qs.__file__).parents[1] / "docs" / "python.md").read_text()
    names = [*qs.__all__, *(name for name in dir(qs.Sweep) if not name.startswith("_")), *qs.Trial.__annotations__]
    names += [name for name in qs.Compared.__annotations__ if not name.startswith("_")]
    assert len(names) > 30
    assert (Path(qs.__file__).parent / "py.typed").is_file(), "editors find its types"
    assert [name for name in names if f"{name}" not in page] == []


@pytest.mark.parametrize("kind", [SweepError, StorageError, lambda text: ConfigError([text])])
def test_errors_name_keywords_and_no_options(kind):
    kept = "(qsweep promote X --force); vllm serve --max-lora-rank 8 --models x"

    @with_keywords
    def fails() -> None:
        raise kind(f"--eval-data: 3 rows: give others, or --force {kept}")

    with pytest.raises(SweepError) as told:
        fails()
    assert str(told.value) == f"eval_data: 3 rows: give others, or force=True {kept}"


def test_a_sweep_is_found_by_its_folder_its_id_and_its_name(sweep, tmp_path):
    for name in (sweep.folder, "x-1", "x"):
        assert qs.load(name, storage=tmp_path / "results").folder == sweep.folder
    assert sweep.id == "x-1"
    assert repr(sweep) == f"<Sweep x-1: FINISHED, 10 trials, {sweep.folder}>"
    with pytest.raises(qs.QsweepError, match="y: no sweep of this id or name"):
        qs.load("y", tmp_path)


def test_trials_are_rows_best_first(sweep):
    table, trials = sweep.table(), sweep.trials
    assert list(table.index) == [trial.name for trial in trials]
    assert len(table) == 10
    assert sweep.best == trials[0]
    assert table.loc[sweep.best.name, "eval_loss"] == table["eval_loss"].min() == sweep.best.metrics["eval_loss"]
    assert list(table.columns) == [
        "eval_loss", "state", "r", "lora_alpha", "target_modules", "learning_rate", "step", "eval_accuracy", "adapter"
    ]  # fmt: skip
    assert sweep.best.settings["learning_rate"] == table.loc[sweep.best.name, "learning_rate"]
    folder = sweep.folder / "trials" / sweep.best.key / f"best-{sweep.best.best_step:06d}" / "adapter"
    assert (sweep.best.adapter, table["adapter"].iloc[0]) == (folder, str(folder))
    status = sweep.status()
    assert (status["state"], status["best"]["adapter"]) == ("FINISHED", str(sweep.best.adapter))
    assert status["adapters"] == {trial.key: str(trial.adapter) for trial in trials}


def test_sweeps_are_compared(tmp_path):
    for name, loss in (("a", 1.0), ("b", 1.25)):
        two_sweeps.sweep(tmp_path, name, loss, quantization={"scheme": name})
    found = qs.compare(qs.load("a", tmp_path), "b:t01", storage=tmp_path)
    assert (found.names, found.metric) == (("a", "b"), "eval_loss")
    assert [trial.name for trial in found.trials] == ["t00", "t01"]
    assert found.settings == {"quantization.scheme": ("a", "b")}
    (difference,) = found.differences
    assert (difference["difference"], difference["apart"]) == (pytest.approx(0.75), True)
    assert [each["steps"] for each in found.spent] == [18, 18]
    assert "a t00 (step 9) is better than b t01 (step 9): eval_loss 0.7500 lower" in str(found)
    assert found.report(tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(qs.QsweepError, match="a: there is no other sweep to compare it with"):
        qs.compare("a", storage=tmp_path)
    with pytest.raises(qs.QsweepError, match="name two sweeps or more"):
        qs.compare()


def test_the_result_in_words_is_that_of_a_terminal_and_ends_what_a_notebook_shows(sweep, monkeypatch, capsys):
    compare(str(sweep.folder))
    told = " ".join(capsys.readouterr().out.split())
    assert sweep.lines[0].startswith(f"best: {sweep.best.name}, ")
    assert all(" ".join(line.split()) in told for line in sweep.lines)
    monkeypatch.setattr("qsweep._driver.follow", lambda *_: None)
    sweep.wait()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("qsweep._driver.has_displays", lambda: True)
    sweep.wait()
    assert capsys.readouterr().out.splitlines() == list(sweep.lines)


def test_curves_have_every_step_and_at_reports_the_metrics(sweep):
    curves = sweep.curves()
    best = curves[curves["trial"] == sweep.best.name].set_index("step")
    assert list(best.index) == list(range(1, sweep.best.step + 1))
    assert best["train_loss"].notna().all()
    reports = best["eval_loss"].dropna()
    assert list(reports.index) == [step for step in sweeps.RUNGS if step <= sweep.best.step]
    assert reports.iloc[-1] == sweep.best.metrics["eval_loss"]


def test_a_sweep_without_a_report_has_empty_tables_and_no_best_trial(tmp_path):
    document = sweeps.config()
    sweeps.write(tmp_path / "x", [next(sweeps.events(1, document))], document)
    sweep = qs.load(tmp_path / "x")
    assert (len(sweep.table()), len(sweep.curves()), sweep.trials) == (0, 0, [])
    with pytest.raises(qs.QsweepError, match="there is no best trial: no trial began"):
        _ = sweep.best


def test_a_driver_that_was_lost_is_told(tmp_path, capsys):
    document = sweeps.config()
    sweeps.write(tmp_path / "x", list(sweeps.events(2, document, ends=False)), document)
    (tmp_path / "x" / "driver.log").write_text("error: old\n" + "line\n" * 60 + "error: no room\n")
    sweep = qs.load(tmp_path / "x")
    with pytest.raises(qs.QsweepError) as caught:
        sweep.wait()
    assert str(caught.value) == (
        f"{sweep.folder}: not running, and its driver was lost: qsweep resume goes on; the driver's log is "
        f"{sweep.folder}/driver.log\nno room"
    )
    assert capsys.readouterr().out == ""  # what the log held before the sweep was loaded is not shown


@pytest.mark.parametrize(
    ("code", "printed", "is_failure"),
    [(2, "", True), (1, "error: no room\n", True), (1, "a trial failed\n", False), (0, "error: x\n", False)],
)
def test_a_driver_that_failed_is_told_whatever_it_found(sweep, code, printed, is_failure):
    before = "error: of an earlier driver\n"
    log = sweep.folder / "driver.log"
    log.write_text(before + printed)
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    driven = qs.Sweep(SweepFolder(sweep.folder), process, len(before))
    if not is_failure:
        assert driven.wait() is driven
        return
    with pytest.raises(qs.QsweepError) as caught:
        driven.wait()
    told = f"{sweep.folder}: its driver failed with exit code {code}; the driver's log is {log}"
    assert str(caught.value) == told + "\nno room" * bool(printed)


def test_a_request_to_a_sweep_that_does_not_run_is_refused_and_a_point_waits(sweep):
    with pytest.raises(qs.QsweepError, match="the sweep has finished: there is nothing to stop"):
        sweep.stop()
    told = f"; the sweep is not running: resume(SWEEP) or qsweep resume {sweep.folder} goes on with it"
    assert sweep.add(learning_rate=3e-4).endswith(told)


def test_a_sweep_that_runs_is_not_resumed(sweep, monkeypatch):
    monkeypatch.setattr("sweeps.steering.driver_process.start", lambda *_: pytest.fail("a second driver was started"))
    with (sweep.folder / "driver.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(qs.QsweepError) as caught:
            qs.resume(sweep)
    assert str(caught.value) == f'x-1 runs already: qs.load("{sweep.folder}").wait() follows it'
    assert not (sweep.folder / "driver.log").exists()


@pytest.mark.parametrize("is_interactive", [True, False])
def test_who_interrupts_following_is_told_how_to_find_the_sweep_again(sweep, monkeypatch, capsys, is_interactive):
    monkeypatch.setattr("qsweep._driver.follow", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("qsweep._driver.is_interactive", lambda: is_interactive)
    with nullcontext() if is_interactive else pytest.raises(KeyboardInterrupt):
        assert sweep.wait() is sweep
    assert capsys.readouterr().out == (
        f'the sweep goes on: sweep = qs.load("{sweep.folder}") finds it; sweep.wait() follows it, '
        "sweep.stop() ends it\n"
    )


def test_wrong_options_of_a_promotion_are_told_at_once(sweep):
    with pytest.raises(ConfigError) as caught:
        sweep.promote("m", topp=3, eval_data=sweep.table(), force="no")
    assert caught.value.problems == (
        "topp: unknown keyword; did you mean top?",
        "eval_data: is of type DataFrame: give the path of a file with the rows",
        "force: 'no' must be True or False",
    )


def test_the_report_is_written_and_a_file_that_cannot_be_is_told(sweep, tmp_path):
    assert sweep.report(price=2.5) == sweep.folder / "report.html"
    assert "none: the sweep has held no GPU" in (sweep.folder / "report.html").read_text()
    assert sweep.report(tmp_path / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(qs.QsweepError, match=r"/nodir/x\.yaml: cannot be written: No such file or directory: name"):
        sweep.yaml(tmp_path / "nodir" / "x.yaml")


def test_the_current_folder_shadows_nothing_in_the_driver(tmp_path, monkeypatch):
    (tmp_path / "sweeps.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    places = driver_process._import_path()
    assert places[-1] == str(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    program = "import importlib.util; assert importlib.util.find_spec('mine')"
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)
    process = driver_process.start(SweepFolder(tmp_path), [])
    assert process.wait() == 2
    assert "no sweep here" in (tmp_path / "driver.log").read_text()


def test_no_argument_of_the_driver_holds_a_password(sweep, monkeypatch):
    seen: list[list[str]] = []

    def start(folder: SweepFolder, words: list[str]) -> subprocess.Popen[bytes]:
        seen.append(words)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr("sweeps.steering.driver_process.start", start)
    given, shown = "http://user:secret@host:5000", "http://user:***@host:5000"
    with pytest.raises(qs.QsweepError, match="write http://user:\\*\\*\\*@host:5000 here"):
        qs.resume(sweep, tracking_uri=given)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    qs.resume(sweep, tracking_uri=shown, resend=True)
    assert seen == [["--tracking-uri", shown, "--resend"]]


def test_a_resumed_sweep_is_sent_to_no_database_that_is_not_there(sweep, tmp_path):
    with pytest.raises(qs.QsweepError, match=r"other\.db: no such database; name one that is there"):
        qs.resume(sweep, tracking_uri=f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()


def test_a_sweep_to_learn_from_that_is_not_there_is_told_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(qs.QsweepError, match=r"searcher\.warm_start: "):
        qs.launch("toy", searcher={"kind": "tpe", "warm_start": "nothing"}, trials=2)
    assert not (tmp_path / "results").exists()
