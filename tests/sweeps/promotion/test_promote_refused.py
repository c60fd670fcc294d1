"""What is not promoted, and that a refusal writes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import promotions
import pytest
import typer
from filelock import FileLock
from promotion_worlds import SECOND, break_losses, killed_at, package_of, refused
from promotions import MODEL, run

from sweeps.cli import sweep_end
from sweeps.config.model import Promotion
from sweeps.config.uris import sqlite_file
from sweeps.errors import Failed, SweepError
from sweeps.promotion.versions import as_json, models, rollback


def test_a_wrong_option_is_told(world, shared):
    for asked, match in (
        ({"trial": "k2"}, "--trial: t02 is DIVERGED.*--force"),
        ({"trial": "t04"}, "--trial: t04 is PAUSED"),
        ({"trial": "k9"}, "--trial: no trial 'k9' in .*t01 k1"),
        ({"trial": "t00", "sweep": "failed"}, "--trial: t00 is FAILED"),
        ({"metric": "eval_los"}, "--metric: no trial has eval_los; did you mean eval_loss"),
        ({"metric": "trainable_params"}, "--metric: .* has no value per row, .* name one of eval_loss, eval_row_loss$"),
        ({"model": "no good"}, "--model: 'no good'"),
        ({"alias": "latest"}, "--alias: 'latest' is kept for other uses"),
        ({"min_gain": -1.0}, "--min-gain: -1.0 must be"),
        ({"eval_data": Path("nowhere.jsonl")}, "--eval-data: .*nowhere.jsonl does not exist"),
        ({"eval_data": shared / "train.jsonl"}, "--eval-data: is the same file as data.train"),
    ):
        refused(world, match, **asked)


def test_an_adapter_that_was_tampered_with_is_refused(world):
    for name in ("adapter_model.bin", "adapter_model.safetensors"):
        with (world.adapter(SECOND, "k1") / name).open("ab") as file:
            file.write(b" ")
        refused(world, "t01: its adapter .* is not the one that the trial wrote: sha256")
        if name.endswith(".bin"):
            (world.adapter(SECOND, "k1") / name).unlink()


def test_an_adapter_that_was_never_verified_is_still_checked(world):
    """Without a digest, as in runs of earlier versions, and forced: configuration and losses must still be right."""
    file = world.adapter(SECOND, "k1") / "adapter_config.json"
    config = json.loads(file.read_text())
    with closing(sqlite3.connect(world.root / "mlflow.db")) as database, database:
        database.execute("delete from tags where key = 'sweep.adapter_sha256'")
    refused(world, "has no tag sweep.adapter_sha256")
    for change, match in (
        ({"base_model_name_or_path": "other/base"}, "base_model_name_or_path is 'other/base'"),
        ({"r": 8}, "PEFT cannot load it"),
        ({"lora_alpha": 64}, "evaluates to .* and reported"),
    ):
        file.write_text(json.dumps(config | change))
        refused(world, match, force=True)


@pytest.mark.parametrize("what", ["metric", "rows"])
def test_a_reported_loss_that_does_not_come_out_again_is_an_error(world, what):
    if what == "metric":
        with closing(sqlite3.connect(world.root / "mlflow.db")) as database, database:
            database.execute(
                "update latest_metrics set value = 2.5 where key = 'best_eval_loss' and value < 4 and value > 1"
            )
    else:
        file = world.adapter(SECOND, "k1").parent / "eval_rows.json"
        rows = json.loads(file.read_text())
        # The sum stays: what one row loses another gains.
        rows["row_losses"][0] += 1.0
        rows["row_losses"][1] -= 1.0
        file.write_text(json.dumps(rows))
        refused(world, "t01: its eval_rows.json in MLflow is not the one that the trial wrote")
    refused(world, "t01: evaluates to .* and reported", force=what == "rows")


@pytest.mark.parametrize(
    ("rows", "broken", "match", "asked"),
    [
        ("test", ["t00", "t01"], "no trial may be promoted: the loss of none is finite on data.test: .* --top$", {}),
        ("test", ["t01"], "none is finite on data.test: .*, or another trial with --trial$", {"trial": "t01"}),
        ("test", ["champion"], "the loss of the champion is not finite on data.test.*--eval-data", {}),
        ("eval", ["t00"], "t00: its loss is not finite, and it reported", {}),
    ],
)
def test_losses_that_are_not_finite_promote_nothing(champion, monkeypatch, rows, broken, match, asked):
    break_losses(monkeypatch, rows, *broken)
    refused(champion, match, **asked)


def test_a_name_that_is_taken_by_something_else_is_refused(world):
    world.client.create_registered_model(MODEL)
    refused(world, "--model: 'answers' is registered already and not by qsweep")
    assert world.versions() == []


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        ("nameless", {"promotion": Promotion()}, "--model: name the registered model, or set promotion.model"),
        ("toy", {"trainable": "toy"}, "trainable: 'toy' has no adapters to promote"),
    ],
)
def test_a_sweep_that_cannot_be_promoted_is_refused(world, shared, name, fields, match):
    config = promotions.config(shared, world.uri, name=name).model_copy(update=fields)
    promotions.deliver(config, f"{name}-20260101-000000-eeee", world.sweep(name), [], "0" * 16)
    refused(world, match, name)


def test_other_content_than_the_sweep_began_with_is_refused(world, shared):
    for what in ("base/model.safetensors", "train.jsonl", "test.jsonl"):
        file = shared / what
        before = file.read_bytes()
        try:
            if what.startswith("base"):
                file.write_bytes(before[:-8] + b"\0" * 8)
            else:
                file.write_bytes(before + before.splitlines(keepends=True)[0].replace(b"total", b"sum"))
            refused(world, "its content is not what the sweep began with; --force")
        finally:
            file.write_bytes(before)


def test_rows_that_are_not_on_this_machine_are_told_with_the_way_out(world, shared):
    file = shared / "eval.jsonl"
    file.rename(shared / "away.jsonl")
    try:
        refused(world, "eval.jsonl does not exist.*run this where the sweep ran, or give --address")
    finally:
        (shared / "away.jsonl").rename(file)


def test_a_champion_on_another_base_is_refused_unless_forced(replaced):
    rollback(MODEL, None, "champion", replaced.uri)
    replaced.client.set_model_version_tag(MODEL, "1", "base.identity", "folder:0123456789abcdef nf4")
    refused(replaced, "its champion, version 1, is on another base")
    outcome = run(replaced.sweep("second"), force=True)
    assert outcome.exit_code == 0
    assert (outcome.version, replaced.versions()) == ("2", ["1", "2"])
    assert "another base" in replaced.tags("2")["promotion.forced"]
    assert "another base" in replaced.client.get_model_version(MODEL, "2").description
    assert "champion" not in outcome.verdict.losses
    assert replaced.tags("2")["promotion.compared_with"] == "base"
    assert not {"gain.champion", "loss.champion"} & replaced.tags("2").keys()
    history = as_json(models(MODEL, replaced.uri)[0][0])["history"]
    assert [each["gain"] is None for each in history] == [False, False, True, True], history


def test_a_champion_whose_files_are_gone_is_refused_unless_forced(replaced):
    rollback(MODEL, None, "champion", replaced.uri)
    shutil.rmtree(package_of(replaced, "1"))
    gone = r"the files of version 1 are gone .* delete this version in MLflow and promote again"
    refused(replaced, f"its champion, version 1, cannot be compared with: .*{gone}")
    outcome = run(replaced.sweep("second"), force=True)
    assert (outcome.exit_code, outcome.version) == (0, "2")
    assert "the files of version 1 are gone" in replaced.tags("2")["promotion.forced"]
    # To promote its own trial again is no way to have them back.
    refused(replaced, gone, "first", force=True, alias="staging")
    replaced.client.set_registered_model_alias(MODEL, "champion", "1")
    refused(replaced, gone, "first", force=True)
    replaced.client.delete_model_version(MODEL, "1")
    assert run(replaced.sweep("first")).version == "3"


def test_a_rollback_says_that_it_waits_for_a_promotion(champion):
    file = sqlite_file(champion.uri)
    lock, said = FileLock(file.with_name(f".{file.name}.promotion.lock")), []
    lock.acquire()

    def say(line: str) -> None:
        said.append(line)
        lock.release()

    with pytest.raises(SweepError, match="there is nothing to go back to"):
        rollback(MODEL, None, "champion", champion.uri, say=say)
    assert [line.partition(":")[0] for line in said] == ["waiting for a promotion on this store to end"]


def test_a_version_that_was_changed_since_is_not_compared_with_nor_promoted_again_nor_gone_back_to(replaced):
    rollback(MODEL, None, "champion", replaced.uri)
    (package_of(replaced, "2") / "served.py").write_text("raise SystemExit")
    refused(replaced, "the files of version 2 are not those that were promoted", force=True)
    with pytest.raises(SweepError, match="the files of version 2 are not those"):
        rollback(MODEL, "2", "champion", replaced.uri)
    assert replaced.aliases()["champion"] == "1"
    file = package_of(replaced, "1") / "artifacts/adapter/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    refused(replaced, "the files of version 1 are not those that were promoted")


def test_files_of_others_in_a_package_are_refused(champion):
    killed_at("promote.after_upload", lambda: run(champion.sweep("second")))
    folders = champion.root.glob(f"mlartifacts/*/artifacts/promoted/{MODEL}/*")
    folder = max(folders, key=lambda path: path.stat().st_mtime)
    (folder / "artifacts" / "adapter" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(SweepError, match="holds other files than were uploaded"):
        run(champion.sweep("second"))
    assert champion.aliases()["champion"] == "1"


def test_a_champion_of_somebody_else_is_refused(champion):
    run_id = champion.client.get_model_version(MODEL, "1").run_id
    champion.client.create_model_version(MODEL, f"runs:/{run_id}/adapter", run_id)
    champion.client.set_registered_model_alias(MODEL, "champion", "2")
    refused(champion, "version 2, its champion, was not made by qsweep")


def test_a_packaged_model_that_answers_otherwise_is_not_promoted(world, monkeypatch):
    for losses, match in (
        ([1.0] * 4, "is not what was evaluated: its 4 rows differ by"),
        ([], "scored none of the rows"),
    ):
        answer = json.dumps({"losses": losses, "texts": ["x"], "prompts": [True]})
        monkeypatch.setattr(promotions.InProcess, "serve", lambda *_, answer=answer: answer)
        with pytest.raises(Failed, match=f"the packaged model {match}"):
            run(world.sweep("second"))
    assert world.aliases() == {}


def finished(exit_code: int, monkeypatch, capsys) -> tuple[int, str, dict]:
    """The exit code of a sweep with --promote that ended with this one, what people read, and the JSON."""
    monkeypatch.setattr("sweeps.report.summary.show", lambda *_: None)
    sweep: Any = SimpleNamespace(config=SimpleNamespace(tracking=SimpleNamespace(uri="sqlite:///a.db")))
    told = {"folder": "/results/x", "as_json": lambda: {"sweep": "x"}}
    ended: Any = SimpleNamespace(exit_code=exit_code, is_ray_left_behind=False, mirror=None, **told)
    with pytest.raises(typer.Exit) as end:
        sweep_end.finish(sweep, ended, True, True)
    out, err = capsys.readouterr()
    return end.value.exit_code, err, json.loads(out)


def test_a_sweep_that_did_not_end_well_is_not_promoted(monkeypatch, capsys):
    code, err, told = finished(130, monkeypatch, capsys)
    assert (code, err) == (130, "not promoted: the sweep did not end well (exit code 130)\n")
    assert told == {"sweep": "x", "promotion": None, "not_promoted": "sweep"}


@pytest.mark.usefixtures("hears_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_promotion_says_what_the_sweep_was_and_how_to_go_on(number, monkeypatch, capsys):
    monkeypatch.setattr(sweep_end, "request_of", lambda *_, **__: None)
    monkeypatch.setattr(sweep_end, "show_promotion", lambda *_: signal.raise_signal(number))
    code, err, told = finished(0, monkeypatch, capsys)
    advice = "qsweep promote /results/x does what is left"
    assert (code, err) == (128 + number, f"\ninterrupted: the alias is where it was, or moved whole; {advice}\n")
    assert told == {"sweep": "x", "promotion": None, "not_promoted": "interrupted"}
