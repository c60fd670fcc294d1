"""The decision record, and what `qsweep verify` finds in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import python_imports
from promotion_worlds import SECOND, package_of
from promotions import MODEL, run
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.errors import Failed, SweepError
from sweeps.promotion import decision_record, gate, versions, words
from sweeps.promotion.decision_record import PROMOTED, DecisionRecord
from sweeps.promotion.verify import checks
from sweeps.tracking import model_package
from sweeps.tracking.model_package import RECORD
from trainables.scoring.requests import BASE


def wrong(reference: str, uri: str | None = None) -> dict[str, str]:
    """The checks that do not hold: name -> words."""
    return {check.name: check.words for check in checks(versions.find(reference, uri))[1] if check.holds is False}


def record_of(world, version: str = "1") -> DecisionRecord:
    return decision_record.read_record((package_of(world, version) / RECORD).read_bytes())


@pytest.fixture
def folder(strong) -> Path:
    """The files of a promoted version."""
    return package_of(strong, "1")


@pytest.fixture
def record(strong, folder) -> DecisionRecord:
    return record_of(strong)


def write(folder: Path, record: DecisionRecord, **changed: object) -> None:
    """Writes a record that is changed, with the digest of what it says now."""
    made = record.model_copy(update=changed)
    (folder / RECORD).write_bytes(made.model_copy(update={"sha256": made.digest()}).content())


def test_the_record_says_why_and_what_of_and_what_is_as_promoted_is_verified(strong, folder, record):
    tags = strong.tags()
    assert record.is_whole
    assert "refit_of" not in json.loads(record.content())["origin"], "records of before there were refits stay whole"
    assert decision_record.read_record(record.content()) == record
    assert (record.winner, record.origin.sweep_id, record.origin.trial_key) == ("t01", SECOND, "k1")
    assert (record.identity, record.sha256) == (tags["promotion.identity"], tags[versions.RECORD_DIGEST])
    assert record.scores.keys() == {"t00", "t01", BASE}
    assert f"{record.scores['t01'].loss:.6f}" == tags["loss"]
    assert (record.rule.objective.metric, record.rule.min_gain, record.verdict["passed"]) == ("eval_loss", 0.0, True)
    assert (len(record.rows.digests), len(record.serving_rows)) == (40, 32)
    assert {row.logprobs.keys() == {PROMOTED, "t00", BASE} for row in record.serving_rows} == {True}
    assert (record.champion, record.forced, list(record.base.files)) == (None, (), ["model.safetensors"])
    files = {"MLmodel", "served.py", "artifacts/adapter/adapter_model.safetensors"}
    files |= {"artifacts/tokenizer/chat_template.jinja"}
    assert files <= record.files.keys()
    assert {"torch", "peft", "qlora-sweeps"} <= record.versions.keys()
    assert wrong(MODEL, strong.uri) == wrong(f"{MODEL}@challenger", strong.uri) == wrong(str(folder)) == {}
    (_, found) = checks(versions.find(MODEL, strong.uri))
    assert [check.name for check in found if check.holds is None] == ["base", "evaluation"]


def test_a_better_challenger_replaces_the_champion_and_the_record_is_of_the_last_promotion(champion):
    """Also one that is another alias already: its version then tells what the second promotion compared."""
    run(champion.sweep("second"), alias="staging")
    assert champion.tags("2")["promotion.compared_with"] == "base"
    assert (record_of(champion, "2").alias, record_of(champion, "2").champion) == ("staging", None)
    outcome = run(champion.sweep("second"))
    assert (outcome.exit_code, outcome.version, outcome.previous) == (0, "2", "1")
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1", "staging": "2"}
    assert "@champion" in champion.client.get_registered_model(MODEL).description
    assert {found.key for found in outcome.verdict.best.gains} == {"base", "champion"}
    assert champion.tags("2")["promotion.compared_with"] == "version 1"
    assert {"gain.champion", "loss.champion"} <= champion.tags("2").keys()
    record = record_of(champion, "2")
    assert (record.alias, record.champion) == ("champion", "1")
    assert record.champion_sha256 == record_of(champion, "1").adapter_sha256 != record.adapter_sha256
    assert record.serving_rows[0].logprobs.keys() == {PROMOTED, "t00", BASE, "champion"}
    assert wrong(MODEL, champion.uri) == wrong(f"{MODEL}@previous", champion.uri) == {}


def test_a_forced_promotion_says_so_and_its_record_holds_no_password(world, monkeypatch):
    monkeypatch.setattr(model_package, "versions", lambda _: {"torch": "1 @ https://user:secret@host/simple"})
    assert run(world.sweep("failed"), trial="t00", force=True).exit_code == 0
    assert world.tags()["promotion.forced"] == "t00 is FAILED"
    assert "Forced" in world.client.get_model_version(MODEL, "1").description
    assert record_of(world).forced == ("t00 is FAILED",)
    assert b"secret" not in (package_of(world, "1") / RECORD).read_bytes()
    done = CliRunner().invoke(app, ["verify", MODEL, "--tracking-uri", world.uri, "--json"])
    assert done.exit_code == 0
    assert "forced    t00 is FAILED" in done.stderr
    assert json.loads(done.stdout)["forced"] == ["t00 is FAILED"]


def test_a_file_that_was_changed_or_is_gone_or_stands_beside_the_others_is_named(strong, folder):
    (folder / "registered_model_meta").write_text("model_name: answers")  # `mlflow artifacts download` adds this file
    assert wrong(str(folder)) == {}
    artifacts = ("adapter/adapter_model.safetensors", "tokenizer/tokenizer.json", "base.json")
    for file in ("MLmodel", "served.py", "requirements.txt", *(f"artifacts/{each}" for each in artifacts)):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert wrong(str(folder)) == {"files": f"{file} is not the one that was promoted"}
        assert wrong(MODEL, strong.uri).keys() == {"files", "registry"}
        (folder / file).unlink()
        assert wrong(str(folder)) == {"files": f"{file} is gone"}
        (folder / file).write_bytes(content)
    (folder / "artifacts/adapter/more.safetensors").write_bytes(b"x")
    assert wrong(str(folder)).keys() == {"files"}


def test_a_value_that_was_changed_is_seen(strong, folder, record):
    best = record.scores["t01"]
    better = best.model_copy(update={"row_losses": (best.row_losses[0] / 2, *best.row_losses[1:])})
    changed = record.model_copy(update={"scores": {**record.scores, "t01": better}})
    (folder / RECORD).write_bytes(changed.content())
    found = wrong(str(folder))
    assert found[RECORD] == "it is not as it was written: its sha256 differs"
    assert found["rows"] == "t01: its eval_loss is not what its rows give"
    write(folder, changed)
    assert RECORD not in wrong(str(folder))
    assert {"rows", "registry"} <= wrong(MODEL, strong.uri).keys()


def test_a_verdict_that_the_values_do_not_give_is_seen_and_one_that_says_no_is_no_promotion(folder, record):
    gain = json.loads(json.dumps(record.verdict))
    gain["comparisons"][0]["gain"] += 0.001
    for verdict in (gain, {**record.verdict, "winner": "t00"}, {**record.verdict, "reasons": ["none"]}):
        write(folder, record, verdict=verdict)
        assert "verdict" in wrong(str(folder))
    earlier = record.rule.model_copy(update={"method": gate.METHOD - 1})
    write(folder, record, rule=earlier, verdict=gain)
    assert wrong(str(folder)) == {}, "what another version decided is not told to be wrong"
    # All agrees with the values, under a rule by which the gate says no.
    rule = record.rule.model_copy(update={"min_gain": 99.0})
    found = gate.decide(record.scores, rule)
    write(folder, record, rule=rule, verdict=json.loads(json.dumps(words.as_json(found))))
    assert wrong(str(folder)) == {"verdict": "the gate says no"}


def test_rows_to_ask_a_server_for_are_those_that_were_scored(folder, record):
    """Also where they do not fit at all, which is no traceback."""
    first, *others = record.serving_rows
    told = first.logprobs[PROMOTED]
    for change in (
        {"ids": (first.ids[0] + 1, *first.ids[1:])},
        {"logprobs": {**first.logprobs, PROMOTED: (told[0] - 0.01, *told[1:])}},
        {"logprobs": {**first.logprobs, "t09": told}},
    ):
        write(folder, record, serving_rows=(first.model_copy(update=change), *others))
        assert wrong(str(folder)).keys() == {"rows"}
    untold = record.scores["t00"].model_copy(update={"row_tokens": (0,) * 40})
    write(folder, record, scores={**record.scores, "t00": untold})
    assert "rows" in wrong(str(folder))


def test_what_is_no_record_is_told(folder):
    content = (folder / RECORD).read_bytes()
    less, named = json.loads(content), json.loads(content)
    del less["scores"][BASE]
    named["verdict"]["winner"] = ["t01"]
    texts = [json.dumps(each).encode() for each in (less, named)]
    for damaged in (content[: len(content) // 2], *texts, content.replace(b'"alias"', b'"other"')):
        (folder / RECORD).write_bytes(damaged)
        with pytest.raises(Failed, match="is damaged, or not a decision record"):
            wrong(str(folder))
    (folder / RECORD).write_bytes(content.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(SweepError, match="format 2 is not 1: another version of qsweep wrote it"):
        wrong(str(folder))


def test_wrong_input_is_told(strong, folder):
    (folder / RECORD).unlink()
    for named, told in (
        ("nobody", "error: no registered model 'nobody' (there are: answers)\n"),
        (f"{MODEL}@none", "error: answers has no none (its aliases: challenger, champion)"),
        (str(folder), f"{folder}: the folder holds no decision.json"),
        ("./nowhere", "error: ./nowhere: there is no such folder: name a folder with"),
        (MODEL, "version 1 has no decision.json: promote its trial again"),
    ):
        done = CliRunner().invoke(app, ["verify", named, "--tracking-uri", strong.uri])
        assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


def test_a_folder_is_verified_without_mlflow_torch_and_ray(folder):
    (folder / "artifacts/adapter/adapter_model.safetensors").write_bytes(b"other")
    code = f"import sys; sys.modules.update(dict.fromkeys({python_imports.HEAVY})); from sweeps.cli import main; main()"
    command = [sys.executable, "-c", code, "verify", ".", "--json"]
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "WRONG     files: artifacts/adapter/adapter_model.safetensors is not the one" in done.stderr
    told = json.loads(done.stdout)
    assert (told["verified"], told["version"], told["model"]) == (False, None, MODEL)


def test_guards_and_slices_are_in_the_record_and_are_decided_again(world):
    """The gate is asked again with all that it was told."""
    lines = [{"question": f"{n} and {n % 7}?", "answer": f"the total is {n}"} for n in range(400, 440)]
    (world.root / "guard.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    guards = [{"data": str(world.root / "guard.jsonl"), "worse_by": 0.1}, {"metric": "eval_row_loss", "worse_by": 0.1}]
    slices = {"by": "question", "worse_by": None}
    assert run(world.sweep("second"), guards=guards, slices=slices).exit_code == 0
    record = record_of(world)
    assert (len(record.guarded), len(record.sliced.values if record.sliced else ())) == (2, 40)
    assert wrong(MODEL, world.uri) == {}
    guard = record.guarded[0]
    one = guard.scores[BASE]
    worse = one.model_copy(update={"row_losses": tuple(2 * loss for loss in one.row_losses)})
    changed = guard.model_copy(update={"scores": {**guard.scores, BASE: worse}})
    folder = package_of(world, "1")
    write(folder, record, guarded=(changed, record.guarded[1]))
    assert wrong(str(folder)).keys() == {"rows", "verdict"}
    write(folder, record, verdict={**record.verdict, "slices": []})
    assert wrong(str(folder)).keys() == {"verdict"}
