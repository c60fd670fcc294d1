"""What is promoted, on a real MLflow, with adapters that the real engine trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import promotions
import pytest
import tiny_models
from promotion_worlds import SECOND, break_losses, package_of
from promotions import MODEL, run

import qsweep as qs
from cluster.scoring.host import ScoringHost
from sweeps.errors import SweepError
from sweeps.promotion import promote as promoting
from sweeps.promotion import versions, words
from sweeps.promotion.verify import checks
from sweeps.tracking import stores
from sweeps.tracking.lookup import Lookup
from trainables import qlora
from trainables.data import dataset, preview, sources
from trainables.scoring.requests import ScoringRequest, ScoringResult


def rows_of(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_best_adapter_becomes_the_champion(world):
    said: list[str] = []
    outcome = run(world.sweep("second"), said)
    assert (outcome.exit_code, outcome.verdict.winner) == (0, "t01")
    assert (world.aliases(), world.versions()) == ({"challenger": "1", "champion": "1"}, ["1"])
    told = outcome.as_json()
    assert (told["promoted"], told["version"], told["previous"]) == (True, "1", None)
    steps = "sweep: ", "candidates ", "adapters: ", "evaluating ", "verdict: ", "registered: ", "served ", "champion: "
    lines = iter(said)
    assert [step for step in steps if not any(line.startswith(step) for line in lines)] == [], said
    assert "evaluating candidates on the rows that the sweep was scored on" in said
    assert any(line.startswith("40 rows: about 1 case in 13 (7.5%) may be worse by any amount") for line in said)


def test_rows_drawn_for_promotion_decide_where_there_is_no_test_file(world, trained):
    """They are neither trained on nor evaluated on, and the eval file, which chose, decides nothing."""
    config = promotions.config(trained.root, world.uri)
    drawn = {"test": None, "test_examples": 30, "hold_out": "drawn", "copies": "together"}
    config = config.model_copy(update={"name": "drawn", "data": config.base.data_spec.model_copy(update=drawn)})
    fingerprint = qlora.prepare(config.base, trained.root / "cache").summary.fingerprint
    assert fingerprint != trained.fingerprint
    trials = [promotions.Trial(trained.adapters["strong"])]
    promotions.deliver(config, "drawn-20260106-000000-ffff", world.root / "results" / "drawn", trials, fingerprint)
    said: list[str] = []
    assert run(world.sweep("drawn"), said).exit_code == 0
    assert "evaluating base and candidates on the test rows drawn from data.train" in said
    assert not any("the search has seen" in line for line in said)
    assert world.tags()["promotion.rows"] == "the test rows drawn from data.train, 30 rows"
    record = json.loads((package_of(world, "1") / "decision.json").read_text())
    rows = [json.loads(line) for line in (trained.root / "train.jsonl").read_text().splitlines()]
    parts = sources.drawn(config.base.data_spec, rows)
    tests = rows_of(world.root / "tests.jsonl", *(row for row, part in zip(rows, parts, strict=True) if part == "test"))
    as_file = config.base.data_spec.model_copy(update={"test": str(tests), "test_examples": None})
    whole = dataset.whole(as_file, "test", tiny_models.tokenizer())
    assert record["rows"]["fingerprint"] == dataset.split_fingerprint(whole)


def test_the_version_tells_its_lineage(strong):
    tags, version = strong.tags(), strong.client.get_model_version(MODEL, "1")
    trial = Lookup(strong.uri).sweep(stores.NamedSweep(strong.uri, SECOND)).trials[1]
    expected = {
        "sweep.id": SECOND, "sweep.trial_key": "k1", "sweep.run": trial.run_id, "adapter_sha256": trial.adapter_sha256,
        "promotion.decision": "passed, min_gain 0", "promotion.rows": "data.test, 40 rows",
        "promotion.state": "complete",
    }  # fmt: skip
    assert expected.items() <= tags.items()
    assert float(tags["loss"]) < float(tags["loss.base"])
    assert {"base", "base.identity", "data.fingerprint", "version.torch", "version.peft"} <= tags.keys()
    assert "promotion.forced" not in tags
    assert version.run_id == trial.run_id
    assert re.match(r"Loss \d\.\d{4} on data.test: .* lower than the base \(9.*% confidence", version.description)
    assert "qsweep promote" in strong.client.get_registered_model(MODEL).description


def test_the_package_has_the_adapter_and_no_base(strong):
    folder = package_of(strong, "1")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {
        "MLmodel", "README.md", "served.py", "requirements.txt", "input_example.json", "artifacts/base.json",
        "artifacts/adapter/adapter_config.json", "artifacts/adapter/adapter_model.safetensors",
        "artifacts/tokenizer/tokenizer.json", "artifacts/tokenizer/chat_template.jinja",
    } <= files  # fmt: skip
    weights = [file for file in files if file.endswith((".pkl", ".bin", ".pt", ".safetensors"))]
    assert weights == ["artifacts/adapter/adapter_model.safetensors"]
    pinned = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line and not line.startswith("qlora") for line in pinned), pinned
    base = json.loads((folder / "artifacts/base.json").read_text())
    assert base["quantization"] == {"scheme": "none", "double_quant": True, "compute_dtype": "float32"}
    assert list(base["files"]) == ["model.safetensors"]
    card = (folder / "README.md").read_text()
    assert f"- the best on the rows that decided of 2 candidates, out of 5 trials of the sweep `{SECOND}`" in card
    assert all(word in card for word in ("licen", "t01", "| base |", "train.jsonl", "lora-modules"))
    assert "@champion" not in card


def test_a_worse_challenger_is_refused_and_that_the_same_rows_are_looked_at_again_is_said(strong):
    said: list[str] = []
    outcome = run(strong.sweep("first"), said)
    assert outcome.exit_code == 1
    assert (strong.aliases(), strong.versions()) == ({"challenger": "1", "champion": "1"}, ["1"])
    (reason,) = outcome.reasons
    assert "not better than the champion" in reason
    (warning,) = [line for line in said if "decided on" in line]
    assert warning.startswith("warning: version 1 was decided on these rows: each further use")
    said.clear()
    run(strong.sweep("second"), said)
    assert not [line for line in said if "decided on" in line], "the version's own decision is no other look"


def test_better_on_the_rows_of_the_search_and_worse_on_all_is_refused(world):
    said: list[str] = []
    outcome = run(world.sweep("odd"), said)
    assert outcome.exit_code == 1
    assert any("as reported" in line and "t00: 3." in line for line in said), said
    assert outcome.verdict.losses["t00"] > outcome.verdict.losses["base"] > 5
    assert any("rows decide that the search has seen" in line for line in said)
    with pytest.raises(Exception, match="not found"):
        world.client.get_registered_model(MODEL)


def test_a_guard_on_further_rows_and_slices_are_scored_and_refuse(world, shared):
    """On rows that break its rule the strong adapter is worse than the base."""
    ranked = json.loads((shared / "eval.jsonl").read_text().splitlines()[0])  # by this row the sweep chose its best
    rows = rows_of(world.root / "general.jsonl", *map(promotions.odd, range(30)), ranked)
    test = [json.loads(line) for line in (shared / "test.jsonl").read_text().splitlines()]
    marked = [{**row, "parity": ["even", "odd"][place % 2]} for place, row in enumerate(test)]
    own = rows_of(world.root / "mine.jsonl", *marked)
    said: list[str] = []
    limits: dict[str, Any] = {
        "guards": [{"data": str(rows), "worse_by": 0.1}],
        "slices": {"by": "parity", "worse_by": 5.0},
    }
    outcome = run(world.sweep("twin"), said, eval_data=own, **limits)
    assert (outcome.exit_code, outcome.verdict.outcome) == (1, "not_better")
    assert "evaluating base, t00 on the guard general.jsonl" in said
    left_out = "30 of 31 rows decide; left out: 1 among the rows that ranked the trials"
    assert f"warning: guard general.jsonl: {left_out}" in said
    assert said[-1] == "verdict: not better (guard general.jsonl)"
    assert [(each.name, each.rows, each.holds) for each in outcome.verdict.slices] == [
        ("slice parity=even", 20, True), ("slice parity=odd", 20, True),
    ]  # fmt: skip
    unpaired = {"guards": [{"metric": "trainable_params", "worse_by": 0.1}]}
    for asked, match in (
        (limits, r"promotion\.slices\.by: has no column 'parity'; columns: question, answer"),
        (unpaired, r"promotion\.guards\.0\.metric: trainable_params has no value per row"),
    ):
        with pytest.raises(SweepError, match=match):
            run(world.sweep("twin"), **asked)
    rows.write_bytes((shared / "train.jsonl").read_bytes()[:-1])
    with pytest.raises(SweepError, match=r"^promotion\.guards\.0\.data: all"):
        run(world.sweep("twin"), eval_data=own, **limits)
    rows.unlink()
    with pytest.raises(SweepError, match=r"promotion\.guards\.0\.data: .*general.jsonl does not exist"):
        run(world.sweep("twin"), eval_data=own, **limits)


def test_another_metric_than_the_loss_decides(world):
    """Short and long rows weigh alike in it."""
    mixed = [promotions.odd(n) if n % 2 else {"question": f"{n} and {n % 7}?", "answer": f"{n}"} for n in range(30)]
    rows = rows_of(world.root / "mixed.jsonl", *mixed)
    verdict = run(world.sweep("second"), metric="eval_row_loss", eval_data=rows, dry_run=True).verdict
    assert verdict.objective.metric == "eval_row_loss"
    assert abs(verdict.values["t01"] - verdict.losses["t01"]) > 0.01
    by_row = verdict.scores["t01"].row_values["eval_row_loss"]
    assert verdict.values["t01"] == pytest.approx(sum(by_row) / len(by_row))


def test_rows_of_a_file_decide_as_they_were_looked_at_whatever_becomes_of_it(world, monkeypatch):
    """On these the weak adapter is the better one. The file changes before they are sent."""
    rows, score = rows_of(world.root / "mine.jsonl", *map(promotions.odd, range(30))), promotions.InProcess.score

    def elsewhere(host, request):
        rows.unlink() if request.with_base else rows.write_text("{}")
        return score(host, request)

    monkeypatch.setattr(promotions.InProcess, "score", elsewhere)
    verdict = run(world.sweep("second"), eval_data=rows).verdict
    assert (verdict.winner, verdict.best.rows) == ("t00", 30)
    assert verdict.losses["t01"] > verdict.losses["base"]
    assert world.tags()["promotion.rows"] == "mine.jsonl, 30 rows"


def test_rows_that_were_trained_on_or_ranked_the_trials_decide_nothing(world, shared, monkeypatch):
    """Also rows behind those that are looked at before the evaluation."""
    monkeypatch.setattr(preview, "LOOKED_ROWS", 20)
    trained, ranked = (
        [json.loads(line) for line in (shared / f"{name}.jsonl").read_text().splitlines()] for name in ("train", "eval")
    )
    said: list[str] = []
    # Of data.eval the first 8 rows ranked the trials.
    mixed = [*map(promotions.odd, range(60, 90)), *trained[-2:], ranked[0], ranked[10]]
    rows = rows_of(world.root / "mine.jsonl", *mixed)
    outcome = run(world.sweep("second"), said, eval_data=rows)
    told = "mine.jsonl: 31 of 34 rows decide; left out: 2 in data.train, 1 among the rows that ranked the trials"
    assert f"warning: {told}" in said
    assert (outcome.exit_code, outcome.verdict.best.rows, outcome.verdict.best.confidence) == (0, 31, 1 - 0.01 / 2)
    folder = package_of(world, "1")
    assert f"**Warning**: {told}." in (folder / "README.md").read_text()
    record, checked = checks(versions.find(MODEL, world.uri))
    assert (record.rows.left_out, len(record.rows.digests)) == ({"train": 2, "eval": 1}, 31)
    assert {check.holds for check in checked} == {True, None}
    few = run(world.sweep("second"), said, eval_data=rows_of(rows, *map(promotions.odd, range(90, 95)), *trained))
    assert "warning: mine.jsonl: 5 of 45 rows decide; left out: 40 in data.train" in said
    needed = "only 5 rows decide: at least 10 are needed"
    assert (few.verdict.outcome, words.reasons(few.verdict)[0]) == ("cannot_tell", needed)
    verdict = "verdict: cannot be told yet: about 5 more rows would tell"
    assert said[-3:] == [needed, verdict, f"{MODEL} version 1 is the champion already"]
    assert not any("may be worse by any amount" in line or "too narrow" in line for line in said[-6:])


def test_rows_that_chose_the_winner_count_all_trials_that_they_ranked(world, shared):
    """Two trials were ranked, and one that was interrupted has a loss; the file has the bytes of data.eval."""
    rows, said = world.root / "copy.jsonl", list[str]()
    shutil.copy(shared / "eval.jsonl", rows)
    outcome = run(world.sweep("second"), said, eval_data=rows, trial="k0", dry_run=True)
    assert (outcome.verdict.best.rows, outcome.verdict.best.confidence) == (68, 1 - 0.01 / 3)
    line = (
        "the rows that decide have ranked the 3 trials of the sweep: the confidence, 99.67%, counts all of them as "
        "comparisons"
    )
    assert f"warning: {line}" in said
    assert outcome.as_json()["verdict"]["comparisons_counted"] == 3
    assert run(world.sweep("second"), trial="k0", dry_run=True).verdict.best.confidence == 0.99


def requests_of(monkeypatch: pytest.MonkeyPatch) -> list[ScoringRequest]:
    """What the next promotions ask the scorer for."""
    asked, score = list[ScoringRequest](), ScoringHost.score

    def noted(host: ScoringHost, request: ScoringRequest) -> ScoringResult:
        asked.append(request)
        return score(host, request)

    monkeypatch.setattr(ScoringHost, "score", noted)
    return asked


PLAIN = """
def plain(row, answer):
    return float("total" not in answer)

def told(row, answer):
    return float("total" in answer)
"""


def test_a_worse_score_of_the_sweep_file_stops_a_better_loss_unless_a_guard_allows_it(
    world, trained, tmp_path, monkeypatch
):
    """The strong adapter says the total in each answer, the base in none."""
    own = tmp_path / "own.py"
    own.write_text(PLAIN)
    metrics = {"metrics": [f"{own}:plain", f"{own}:told"], "max_new_tokens": 8}
    config = promotions.config(trained.root, world.uri, evaluation=metrics, name="scored")
    trials = [promotions.Trial(trained.adapters[name]) for name in ("weak", "strong")]
    folder = world.root / "results/scored"
    promotions.deliver(config, "scored-20260106-000000-ffff", folder, trials, trained.fingerprint)
    said: list[str] = []
    asked = requests_of(monkeypatch)
    outcome = run(folder, said)
    # Answers are scored of the winner and the base alone.
    assert [(each.with_answers, sorted(each.adapters)) for each in asked if each.rows == "test"] == [
        (False, ["t00", "t01"]),
        (True, ["t01"]),
    ]
    assert (outcome.exit_code, said[-1]) == (1, "verdict: not better (plain)")
    assert outcome.reasons[0].startswith("t01 is worse than the base on plain (40 rows): gain -1.0000, ")
    assert run(folder, guards=[{"metric": "plain", "worse_by": 1.5}]).exit_code == 0
    record, checked = checks(versions.find(MODEL, world.uri))
    assert [each.metric for each in record.rule.beside] == ["told"]
    assert {check.holds for check in checked} == {True, None}


def test_a_dry_run_does_all_but_write(world):
    said: list[str] = []
    outcome = run(world.sweep("second"), said, dry_run=True)
    assert outcome.exit_code == 0
    assert outcome.as_json()["promoted"] is False
    (line,) = [line for line in said if line.startswith("candidates")]
    assert [word for word in line.split() if word.startswith("t0")] == ["t01", "t00"], "the ranked trials only"
    assert said[-1] == "dry run: nothing was written"
    assert any(line.startswith("package: ") for line in said)
    assert world.client.search_registered_models() == []
    assert not list(world.root.glob("mlartifacts/*/artifacts/promoted"))


@pytest.mark.parametrize("lost", ["adapter", "eval_rows.json"])
def test_a_trial_without_its_files_in_mlflow_is_left_out(world, lost):
    """The best one's: the next takes its place, also where only one is asked for."""
    place = world.adapter(SECOND, "k1")
    (shutil.rmtree if lost == "adapter" else os.unlink)(place.parent / lost)
    said: list[str] = []
    assert run(world.sweep("second"), said, dry_run=True, top=1).verdict.winner == "t00"
    (warning,) = [line for line in said if line.startswith("warning: t01")]
    assert warning.startswith("warning: t01 is left out: run ") and warning.endswith(f" has no {lost} in MLflow")
    with pytest.raises(SweepError, match=f"--trial: t01: run .* has no {lost} in MLflow"):
        run(world.sweep("second"), trial="k1")
    shutil.rmtree(world.adapter(SECOND, "k0"))
    with pytest.raises(SweepError, match="no trial may be promoted: MLflow has the adapter of none"):
        run(world.sweep("second"))


def test_a_candidate_whose_loss_is_not_finite_on_the_rows_that_decide_is_left_out(world, monkeypatch):
    break_losses(monkeypatch, "test", "t01")
    said: list[str] = []
    outcome = run(world.sweep("second"), said)
    assert outcome.exit_code == 0
    assert "warning: t01 is left out: its loss on data.test is not finite" in said
    assert (outcome.verdict.winner, set(outcome.verdict.losses)) == ("t00", {"base", "t00"})
    assert (world.tags()["sweep.trial_key"], world.tags()["promotion.candidates"]) == ("k0", "1")


def test_an_adapter_that_was_not_uploaded_is_no_candidate(world):
    with closing(sqlite3.connect(world.root / "mlflow.db")) as database, database:
        runs = "(select run_uuid from tags where key = 'sweep.trial_key' and value = 'k1')"
        database.execute(f"update tags set value = '' where key = 'sweep.adapter_sha256' and run_uuid in {runs}")
        database.execute(
            f"insert into tags (key, value, run_uuid) select 'sweep.adapter_refused', 'changed', run_uuid from {runs}"
        )
    assert run(world.sweep("second"), dry_run=True).verdict.winner == "t00"
    with pytest.raises(SweepError, match="--trial: the adapter of t01 is not in MLflow: changed"):
        run(world.sweep("second"), trial="k1")


def test_python_shows_the_progress_as_the_command_does(world, monkeypatch, capsys):
    monkeypatch.setattr(promoting, "promote", partial(promoting.promote, scored_by=promotions.in_process))
    monkeypatch.setattr("sweeps.timeouts.PASSING_SECONDS", 0.0)
    promotions._host.cache_clear()
    monkeypatch.setenv("QSWEEP_CACHE", str(world.root / "nothing_scored"))
    outcome = qs.load(str(world.sweep("second"))).promote(MODEL, dry_run=True)
    said = capsys.readouterr().out.splitlines()
    assert outcome.verdict.winner == "t01"
    assert {"  loading the base", "  t01: computing losses, 8 of 8 rows done"} <= set(said)
    assert "  the base: computing losses, 40 of 40 rows done" in said
    assert said[-1] == "dry run: nothing was written"
