"""Promotion on a real MLflow, with adapters that the real engine trained: what is promoted, what is refused, and that
whatever happens in between, doing it again ends well."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import promotions
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from promotions import MODEL, Trial, run

from sweeps.errors import SweepError
from sweeps.promotion import registration
from sweeps.promotion.promote import Outcome
from sweeps.promotion.rollback import as_json, models, rollback
from sweeps.record import faults
from sweeps.record.events import TrialState
from sweeps.tracking import stores
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry
from trainables import qlora

FIRST, SECOND, ODD = "first-20260101-000000-aaaa", "second-20260102-000000-bbbb", "odd-20260103-000000-cccc"
TWIN = "twin-20260104-000000-dddd"


class World(NamedTuple):
    """An MLflow with sweeps in it."""

    uri: str
    root: Path
    client: MlflowClient

    def sweep(self, name: str) -> Path:
        return self.root / "results" / name

    def aliases(self) -> dict[str, str]:
        return {alias: str(at) for alias, at in self.client.get_registered_model(MODEL).aliases.items()}

    def versions(self) -> list[str]:
        return sorted(str(found.version) for found in self.client.search_model_versions(f"name = '{MODEL}'"))

    def tags(self, version: str = "1") -> dict[str, str]:
        return dict(self.client.get_model_version(MODEL, version).tags)

    def adapter(self, sweep_id: str, key: str) -> Path:
        """The artifacts of a trial's adapter."""
        place = stores.Place(self.uri, sweep_id)
        (trial,) = [each for each in Lookup(self.uri).sweep(place).trials if each.trial_key == key]
        return self.root / "mlartifacts" / trial.run_id / "artifacts" / "adapter"


@pytest.fixture(scope="session")
def shared(tmp_path_factory, empty_database) -> Path:
    """A folder with three sweeps in MLflow, to copy: `first` has a weak adapter, `second` a strong one and trials that
    must not be promoted, `odd` one that is better on the rows that the search saw and worse on all."""
    root = tmp_path_factory.mktemp("promotion")
    shutil.copy(empty_database, root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    promotions.write_data(root, odd_rows=60)
    config = promotions.config(root, uri)
    trained = promotions.train(config, root / "cache")
    weak, strong = trained["weak"], trained["strong"]
    fingerprint = qlora.prepare(config.base, root / "cache").summary.fingerprint
    assert config.data is not None
    untested = config.data.model_copy(update={"test": None})
    for name, sweep_id, trials, of in (
        ("first", FIRST, [Trial(weak)], config),
        ("second", SECOND, [
            Trial(weak, TrialState.STOPPED), Trial(strong), Trial(strong, TrialState.DIVERGED, 0.5),
            Trial(strong, TrialState.FAILED, 0.5), Trial(strong, TrialState.PAUSED, 0.5),
        ], config),
        ("twin", TWIN, [Trial(strong)], config),
        ("odd", ODD, [Trial(strong)], config.model_copy(update={"data": untested})),
    ):  # fmt: skip
        promotions.deliver(of.model_copy(update={"name": name}), sweep_id, root / "results" / name, trials, fingerprint)
    return root


def copy_of(source: Path, target: Path) -> World:
    """A copy of MLflow and the sweeps' folders; the base and the rows stay where they are."""
    # MLflow remembers, per process, where a run's artifacts are.
    _artifact_repos_cache.clear()
    for name in ("mlflow.db", "mlartifacts", "results"):
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, target / name)
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(source), str(target)))
    for config in target.glob("results/*/config.json"):
        config.write_text(config.read_text().replace(f"{source}/mlflow.db", f"{target}/mlflow.db"))
    uri = f"sqlite:///{target}/mlflow.db"
    return World(uri, target, MlflowClient(tracking_uri=uri))


@pytest.fixture(scope="session")
def promoted(shared, tmp_path_factory) -> Path:
    """The same, with the weak adapter of `first` as the champion, to copy."""
    made = copy_of(shared, tmp_path_factory.mktemp("promoted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSWEEP_CACHE", str(shared / "cache"))
        assert run(made.sweep("first")).exit_code == 0
    return made.root


@pytest.fixture
def world(shared, tmp_path, monkeypatch) -> World:
    """MLflow and its sweeps, and nothing promoted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QSWEEP_CACHE", str(shared / "cache"))
    return copy_of(shared, tmp_path)


@pytest.fixture
def champion(promoted, shared, tmp_path, monkeypatch) -> World:
    """The same, with the weak adapter as version 1, the champion."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QSWEEP_CACHE", str(shared / "cache"))
    return copy_of(promoted, tmp_path)


# What is promoted


def test_the_best_adapter_becomes_the_champion(world):
    said: list[str] = []
    outcome = run(world.sweep("second"), said)
    assert outcome.exit_code == 0
    assert outcome.verdict.winner == "t01"
    assert world.aliases() == {"challenger": "1", "champion": "1"}
    assert world.versions() == ["1"]
    assert outcome.as_json()["promoted"] is True
    assert (outcome.as_json()["version"], outcome.as_json()["previous"]) == ("1", None)
    steps = ("sweep: ", "candidates ", "adapters: ", "evaluating ", "gate: ", "registered: ", "served ", "champion: ")
    lines = iter(said)
    assert [step for step in steps if not any(line.startswith(step) for line in lines)] == [], said


def test_candidates_are_the_ranked_trials_only(world):
    said: list[str] = []
    run(world.sweep("second"), said, dry_run=True)
    (line,) = [line for line in said if line.startswith("candidates")]
    assert [word for word in line.split() if word.startswith("t0")] == ["t01", "t00"]


def test_the_version_tells_its_lineage(world):
    run(world.sweep("second"))
    tags = world.tags()
    place = stores.Place(world.uri, SECOND)
    trial = Lookup(world.uri).sweep(place).trials[1]
    assert (tags["sweep.id"], tags["sweep.trial_key"], tags["sweep.run"]) == (SECOND, "k1", trial.run_id)
    assert tags["adapter_sha256"] == trial.adapter_sha256
    assert tags["promotion.decision"] == "passed, min_gain 0"
    assert tags["promotion.rows"] == "data.test, 40 rows"
    assert float(tags["loss"]) < float(tags["loss.base"])
    assert {"base", "base.identity", "data.fingerprint", "version.torch", "version.peft"} <= tags.keys()
    assert tags["promotion.state"] == "complete"
    assert "promotion.forced" not in tags
    version = world.client.get_model_version(MODEL, "1")
    assert version.run_id == trial.run_id
    assert "lower than the base" in version.description
    assert "qsweep promote" in world.client.get_registered_model(MODEL).description


def test_the_package_has_the_adapter_and_no_base(world):
    run(world.sweep("second"))
    version = world.client.get_model_version(MODEL, "1")
    path = version.source.removeprefix(f"runs:/{version.run_id}/")
    folder = world.root / "mlartifacts" / version.run_id / "artifacts" / path
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {
        "MLmodel", "README.md", "served.py", "requirements.txt", "input_example.json", "artifacts/base.json",
        "artifacts/adapter/adapter_config.json", "artifacts/adapter/adapter_model.safetensors",
        "artifacts/tokenizer/tokenizer.json", "artifacts/tokenizer/chat_template.jinja",
    } <= files  # fmt: skip
    assert [file for file in files if file.endswith((".pkl", ".bin", ".pt"))] == []
    assert [file for file in files if file.endswith(".safetensors")] == ["artifacts/adapter/adapter_model.safetensors"]
    pinned = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in pinned), pinned
    assert [line for line in pinned if line.startswith("qlora")] == []
    base = json.loads((folder / "artifacts/base.json").read_text())
    assert base["quantization"] == {"scheme": "none", "double_quant": True, "compute_dtype": "float32"}
    assert list(base["files"]) == ["model.safetensors"]
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("licen", SECOND, "t01", "| base |", "train.jsonl", "lora-modules"))


def test_a_better_challenger_replaces_the_champion(champion):
    outcome = run(champion.sweep("second"))
    assert outcome.exit_code == 0
    assert (outcome.registered.version, outcome.previous) == ("2", "1")
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
    assert {found.against for found in outcome.verdict.of("t01")} == {"base", "champion"}
    assert champion.tags("2")["promotion.compared_with"] == "version 1"


def test_a_worse_challenger_is_refused(world):
    run(world.sweep("second"))
    outcome = run(world.sweep("first"))
    assert outcome.exit_code == 1
    assert world.aliases() == {"challenger": "1", "champion": "1"}
    assert world.versions() == ["1"]
    (reason,) = outcome.reasons
    assert "not better than the champion" in reason


def test_better_on_the_rows_of_the_search_and_worse_on_all_is_refused(world):
    said: list[str] = []
    outcome = run(world.sweep("odd"), said)
    assert outcome.exit_code == 1
    assert any("as reported" in line and "t00: 3." in line for line in said), said
    assert outcome.verdict.losses["t00"] > outcome.verdict.losses["base"] > 5
    assert any("rows decide that the search has seen" in line for line in said)
    with pytest.raises(Exception, match="not found"):
        world.client.get_registered_model(MODEL)


def test_rows_of_a_file_decide(world):
    """On these the weak adapter is the better one."""
    rows = world.root / "mine.jsonl"
    rows.write_text("".join(json.dumps(promotions.odd(n)) + "\n" for n in range(30)))
    outcome = run(world.sweep("second"), eval_data=rows)
    assert (outcome.verdict.winner, outcome.verdict.rows) == ("t00", 30)
    assert outcome.verdict.losses["t01"] > outcome.verdict.losses["base"]
    assert world.tags()["promotion.rows"] == "mine.jsonl, 30 rows"


def test_few_rows_are_warned_of(world):
    rows = world.root / "mine.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"the total is {n}"}) + "\n" for n in range(5)))
    said: list[str] = []
    run(world.sweep("second"), said, eval_data=rows, dry_run=True)
    assert any(line.startswith("warning: only 5 rows decide") for line in said)
    outcome = run(world.sweep("second"), eval_data=rows)
    assert outcome.exit_code == 1
    assert outcome.reasons[0] == "only 5 rows decide: at least 10 are needed"


def test_a_gain_below_min_gain_is_refused(world):
    outcome = run(world.sweep("second"), min_gain=5.0)
    assert outcome.exit_code == 1
    assert "less than min_gain 5" in outcome.reasons[0]


def test_another_alias_has_its_own_champion(world):
    run(world.sweep("second"))
    run(world.sweep("first"), alias="staging")
    assert world.aliases() == {"challenger": "2", "champion": "1", "staging": "2"}


def test_a_dry_run_does_all_but_write(world):
    said: list[str] = []
    outcome = run(world.sweep("second"), said, dry_run=True)
    assert outcome.exit_code == 0
    assert outcome.as_json()["promoted"] is False
    assert said[-1] == "dry run: nothing was written"
    assert any(line.startswith("package: ") for line in said)
    assert world.client.search_registered_models() == []
    assert not list(world.root.glob("mlartifacts/*/artifacts/promoted"))


def test_a_sweep_is_found_by_id_name_and_folder(world):
    for sweep in (SECOND, "second", world.sweep("second"), "results/second"):
        outcome = run(sweep, dry_run=True, tracking_uri=None)
        assert outcome.verdict.winner == "t01", sweep


def test_a_name_means_its_newest_sweep(world, shared):
    config = promotions.config(shared, world.uri, name="second")
    folder = world.root / "results" / "second-2"
    promotions.deliver(config, "second-20270101-000000-dddd", folder, [], "0" * 16, begun=5.0)
    with pytest.raises(SweepError, match="second-20270101-000000-dddd: no trial may be promoted"):
        run("second")


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


# What is refused


def refused(world, match: str, sweep: str = "second", **asked) -> None:
    before = (world.root / "mlflow.db").read_bytes()
    with pytest.raises((SweepError, Exception), match=match) as error:
        run(world.sweep(sweep), **asked)
    assert error.type.__module__.startswith(("sweeps.", "cluster.", "trainables.")), error.type
    assert (world.root / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"trial": "k2"}, "--trial: t02 is DIVERGED.*--force"),
        ({"trial": "k3"}, "--trial: t03 is FAILED"),
        ({"trial": "t04"}, "--trial: t04 is PAUSED"),
        ({"trial": "k9"}, "--trial: no trial 'k9' in .*t01 k1"),
        ({"metric": "eval_los"}, "--metric: no trial has best_eval_los; did you mean eval_loss"),
        ({"model": "no good"}, "--model: 'no good'"),
        ({"alias": "no good"}, "--alias: 'no good' may hold"),
        ({"alias": "latest"}, "--alias: 'latest' is kept for other uses"),
        ({"alias": "previous"}, "--alias: 'previous' is kept"),
        ({"top": 0}, "--top: 0 must be at least 1"),
        ({"min_gain": -1.0}, "--min-gain: -1.0 must be"),
        ({"eval_data": Path("nowhere.jsonl")}, "--eval-data: .*nowhere.jsonl does not exist"),
    ],
)
def test_a_wrong_option_is_told(world, asked, match):
    refused(world, match, **asked)


def test_rows_that_were_trained_on_do_not_decide(world, shared):
    refused(world, "--eval-data: is the same file as data.train", eval_data=shared / "train.jsonl")


def test_a_forced_trial_says_so(world, shared):
    # Its true loss, so that the second evaluation agrees.
    trained = promotions.train(promotions.config(shared, world.uri), shared / "cache")
    config = promotions.config(shared, world.uri, name="third")
    fingerprint = qlora.prepare(config.base, shared / "cache").summary.fingerprint
    trials = [Trial(trained["strong"], TrialState.FAILED)]
    promotions.deliver(config, "third-20260104-000000-dddd", world.sweep("third"), trials, fingerprint)
    refused(world, "--trial: t00 is FAILED", "third", trial="t00")
    assert run(world.sweep("third"), trial="t00", force=True).exit_code == 0
    assert world.tags()["promotion.forced"] == "t00 is FAILED"
    assert "Forced" in world.client.get_model_version(MODEL, "1").description


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("adapter_model.safetensors", None, "t01: its adapter .* is not the one that the trial wrote: sha256"),
        ("adapter_config.json", None, "t01: its adapter .* is not the one that the trial wrote: sha256"),
        ("adapter_model.bin", b"pickle", "t01: its adapter .* is not the one that the trial wrote: sha256"),
    ],
)
def test_an_adapter_that_was_tampered_with_is_refused(world, name, content, match):
    file = world.adapter(SECOND, "k1") / name
    file.write_bytes(content or file.read_bytes() + b" ")
    refused(world, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda config: config | {"base_model_name_or_path": "other/base"}, "base_model_name_or_path is 'other/base'"),
        (lambda config: config | {"revision": "abc"}, "revision is 'abc'"),
        (lambda config: config | {"peft_type": "IA3"}, "not a LoRA adapter"),
        (lambda config: config | {"r": 8}, "PEFT cannot load it"),
        (lambda config: config | {"lora_alpha": 64}, "evaluates to .* and reported"),
    ],
)
def test_an_adapter_that_was_never_verified_is_still_checked(world, change, match):
    """Without a digest, as in runs of earlier versions, and forced: configuration and losses must still be right."""
    folder = world.adapter(SECOND, "k1")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(change(config)))
    with closing(sqlite3.connect(world.root / "mlflow.db")) as database, database:
        database.execute("delete from tags where key = 'sweep.adapter_sha256'")
    refused(world, "has no tag sweep.adapter_sha256")
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


def test_a_name_that_is_taken_by_something_else_is_refused(world):
    world.client.create_registered_model(MODEL)
    refused(world, "--model: 'answers' is registered already and not by qsweep")
    assert world.versions() == []


def test_a_model_without_a_name_is_refused(world, shared):
    config = promotions.config(shared, world.uri, name="nameless", promotion={})
    promotions.deliver(config, "nameless-20260101-000000-eeee", world.sweep("nameless"), [], "0" * 16)
    refused(world, "--model: name the registered model, or set promotion.model", "nameless")


def test_a_toy_has_nothing_to_promote(world, shared):
    config = promotions.config(shared, world.uri, name="toy").model_copy(update={"trainable": "toy"})
    promotions.deliver(config, "toy-20260101-000000-ffff", world.sweep("toy"), [], "0" * 16)
    refused(world, "trainable: 'toy' has no adapters to promote", "toy")


@pytest.mark.parametrize("what", ["base/model.safetensors", "train.jsonl", "eval.jsonl", "test.jsonl"])
def test_other_content_than_the_sweep_began_with_is_refused(world, shared, what):
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


def test_a_champion_on_another_base_is_refused_unless_forced(champion):
    champion.client.set_model_version_tag(MODEL, "1", "base.identity", "folder:0123456789abcdef nf4")
    refused(champion, "its champion, version 1, is on another base")
    outcome = run(champion.sweep("second"), force=True)
    assert outcome.exit_code == 0
    assert "another base" in champion.tags("2")["promotion.forced"]
    assert "champion" not in outcome.verdict.losses


def test_a_champion_that_was_tampered_with_is_refused(champion):
    (file,) = champion.root.glob("mlartifacts/*/artifacts/promoted/*/*/artifacts/adapter/adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    refused(champion, "the files of version 1 are not those that were promoted")


def package_of(world, version: str) -> Path:
    """The folder of a version's package."""
    identity = world.tags(version)["promotion.identity"]
    (folder,) = world.root.glob(f"mlartifacts/*/artifacts/promoted/{MODEL}/{identity}")
    return folder


def test_a_whole_version_that_was_changed_since_is_neither_promoted_again_nor_gone_back_to(champion):
    run(champion.sweep("second"))
    rollback(MODEL, None, "champion", champion.uri)
    (package_of(champion, "2") / "served.py").write_text("raise SystemExit")
    refused(champion, "the files of version 2 are not those that were promoted")
    with pytest.raises(SweepError, match="the files of version 2 are not those"):
        rollback(MODEL, "2", "champion", champion.uri)
    assert champion.aliases()["champion"] == "1"


def test_files_of_others_in_a_package_are_refused(champion, monkeypatch):
    killed_at("upload", champion.sweep("second"))
    folder = max(
        champion.root.glob(f"mlartifacts/*/artifacts/promoted/{MODEL}/*"), key=lambda path: path.stat().st_mtime
    )
    (folder / "artifacts" / "adapter" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(SweepError, match="holds other files than were uploaded"):
        run(champion.sweep("second"))
    assert champion.aliases()["champion"] == "1"


def test_a_champion_that_reads_rows_in_another_form_is_no_comparison_unless_forced(champion, shared):
    other = promotions.config(shared, champion.uri)
    data = other.base.rows.model_copy(update={"prompt": "Q: {question}"})
    other = other.model_copy(update={"data": data})
    trained = promotions.train(other, shared / "cache-form")
    fingerprint = qlora.prepare(other.base, shared / "cache-form").summary.fingerprint
    promotions.deliver(
        other, "third-20260104-000000-dddd", champion.sweep("third"), [Trial(trained["strong"])], fingerprint
    )
    refused(champion, "reads rows in another form", "third")
    assert run(champion.sweep("third"), force=True).exit_code == 0
    assert "another form" in champion.tags("2")["promotion.forced"]


def test_a_champion_of_somebody_else_is_refused(champion):
    run_id = champion.client.get_model_version(MODEL, "1").run_id
    champion.client.create_model_version(MODEL, f"runs:/{run_id}/adapter", run_id)
    champion.client.set_registered_model_alias(MODEL, "champion", "2")
    refused(champion, "version 2, its champion, was not made by qsweep")


def test_a_packaged_model_that_answers_otherwise_is_not_promoted(world, monkeypatch):
    for losses, match in (([1.0] * 4, "is not what was evaluated: row 1"), ([], "scored none of the rows")):
        answer = json.dumps({"losses": losses, "texts": ["x"], "prompts": [True]})
        monkeypatch.setattr(promotions.InProcess, "serve", lambda *_, answer=answer: answer)
        with pytest.raises(SweepError, match=f"the packaged model {match}"):
            run(world.sweep("second"))
    assert world.aliases() == {}


# Again, interrupted, and at the same time


def test_the_same_promotion_twice_gives_the_same_version(world):
    run(world.sweep("second"))
    before, tags = world.aliases(), world.tags()
    again = run(world.sweep("second"))
    assert again.exit_code == 0
    assert (again.already, again.registered.version) == (True, "1")
    assert (world.aliases(), world.tags(), world.versions()) == (before, tags, ["1"])
    assert len(models(MODEL, world.uri)[0][0].history) == 1


POINTS = ("model", "upload", "version", "description", "serving", "challenger", "history", "previous", "alias")


def killed_at(point: str, sweep: Path) -> None:
    """Promotes in a process that dies at a point."""
    child = os.fork()
    if child == 0:
        os.environ[faults.VARIABLE] = f"promote.after_{point}"
        try:
            run(sweep)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137


@pytest.mark.parametrize("point", POINTS)
def test_a_promotion_that_is_killed_anywhere_is_ended_by_doing_it_again(champion, point):
    killed_at(point, champion.sweep("second"))
    assert champion.aliases()["champion"] == ("2" if point == "alias" else "1")
    outcome = run(champion.sweep("second"))
    assert outcome.exit_code == 0
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
    assert champion.versions() == ["1", "2"]
    assert champion.tags("2")["promotion.state"] == "complete"
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["version"], each["completed"]) for each in history] == [("1", True), ("2", True)]


def test_every_fault_point_is_tried():
    code = Path(registration.__file__).read_text()
    assert [point for point in POINTS if f'"promote.after_{point}"' not in code] == []
    assert code.count("faults.point(") == len(POINTS)


@pytest.mark.parametrize("moment", ["while it is served", "before the alias moves"])
def test_of_two_at_once_one_wins(champion, monkeypatch, moment):
    """The other one runs whole while the first is on its way; on a server nothing holds it back."""
    monkeypatch.setattr("sweeps.tracking.registry.sqlite_file", lambda _uri: None)
    begun: list[bool] = []
    others: list[Outcome] = []

    def other() -> None:
        if not begun:
            begun.append(True)
            others.append(run(champion.sweep("twin")))

    at: tuple[type, str] = (promotions.InProcess, "serve")
    if moment == "before the alias moves":
        at = (Registry, "remember")
    real = getattr(*at)

    def after_the_other(*words):
        other()
        return real(*words)

    monkeypatch.setattr(*at, after_the_other)
    outcome = run(champion.sweep("second"))
    assert others[0].exit_code == 0
    assert outcome.exit_code == 1
    assert "the champion changed meanwhile" in outcome.reasons[0]
    winner = others[0].registered.version
    assert champion.aliases()["champion"] == winner != outcome.registered.version
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["version"], each["completed"]) for each in history] == [("1", True), (winner, True)]


def test_two_promotions_on_one_database_wait_for_each_other(world):
    """Both at the same time in two processes: one version, one alias, both end well."""
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run(world.sweep("second")).exit_code
            finally:
                os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes in ([0, 0], [0, 1])
    assert world.versions() == ["1"]
    assert world.aliases() == {"challenger": "1", "champion": "1"}
    assert len(models(MODEL, world.uri)[0][0].history) == 1


# Back, and the history


def test_rollback_goes_back_and_says_what_changed(champion):
    run(champion.sweep("second"))
    done = rollback(MODEL, None, "champion", champion.uri, clock=lambda: 2000.0)
    assert (done.version, done.before) == ("1", "2")
    assert champion.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["action"], each["version"], each["previous"]) for each in history] == [
        ("promote", "1", None), ("promote", "2", "1"), ("rollback", "1", "2"),
    ]  # fmt: skip
    assert all(each["completed"] for each in history)
    assert rollback(MODEL, "2", "champion", champion.uri).before == "1"


@pytest.mark.parametrize("point", ["history", "previous"])
def test_a_rollback_that_is_killed_is_ended_by_doing_it_again(champion, point):
    run(champion.sweep("second"))
    child = os.fork()
    if child == 0:
        os.environ[faults.VARIABLE] = f"rollback.after_{point}"
        try:
            rollback(MODEL, None, "champion", champion.uri)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    assert champion.aliases()["champion"] == "2"
    assert rollback(MODEL, None, "champion", champion.uri).version == "1"
    assert champion.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    assert len(models(MODEL, champion.uri)[0][0].history) == 3


@pytest.mark.parametrize("alias", ["latest", "v1", "bad name", "challenger"])
def test_a_rollback_of_a_wrong_alias_writes_nothing(champion, alias):
    run(champion.sweep("second"))
    with pytest.raises(SweepError, match="alias"):
        rollback(MODEL, "1", alias, champion.uri)
    assert len(models(MODEL, champion.uri)[0][0].history) == 2


def test_an_entry_of_the_history_that_nobody_can_read_is_not_written_over(champion):
    champion.client.set_registered_model_tag(MODEL, "promotion.history.0001", "{")
    run(champion.sweep("second"))
    rollback(MODEL, None, "champion", champion.uri)
    assert [entry.action for entry in models(MODEL, champion.uri)[0][0].history] == ["promote", "rollback"]


def test_after_a_rollback_the_same_version_is_promoted_again(champion):
    run(champion.sweep("second"))
    rollback(MODEL, None, "champion", champion.uri)
    assert run(champion.sweep("second")).registered.version == "2"
    assert champion.versions() == ["1", "2"]
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    ("to", "match"),
    [(None, "no version was the champion before"), ("7", "no version 7"), ("1", "version 1 is the champion already")],
)
def test_a_rollback_to_nowhere_is_told(world, to, match):
    run(world.sweep("second"))
    with pytest.raises(SweepError, match=match):
        rollback(MODEL, to, "champion", world.uri)
    assert world.aliases() == {"challenger": "1", "champion": "1"}


def test_a_version_that_was_never_whole_is_not_gone_back_to(champion):
    killed_at("version", champion.sweep("second"))
    with pytest.raises(SweepError, match="version 2 of answers was never promoted"):
        rollback(MODEL, "2", "champion", champion.uri)


def test_models_of_others_are_not_listed(world):
    world.client.create_registered_model("theirs")
    assert models(None, world.uri) == []
    run(world.sweep("second"))
    assert [model.name for model, _ in models(None, world.uri)] == [MODEL]
    for name in ("theirs", "nobody"):
        with pytest.raises(SweepError, match="--model: "):
            models(name, world.uri)
