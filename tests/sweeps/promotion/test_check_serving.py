"""What `qsweep check-serving` says of a server, from the records of promoted versions."""

from __future__ import annotations

import json
import math

import openai_servers
import pytest
from promotions import MODEL
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.promotion import serving, versions
from sweeps.promotion.decision_record import Decision
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry


def record_of(world, version: str) -> Decision:
    return serving.decision_of(Lookup(world.uri), MODEL, Registry(world.uri).version(MODEL, version))


def answering_as(name: str, *records: Decision, off: float = 0.0) -> openai_servers.Likely:
    """What a server answers with a recorded model on the rows of each record; `off` nats a token from it."""
    known = {}
    for record in records:
        for row in record.serving_rows:
            told = dict(zip(row.labelled, row.logprobs.get(name, row.logprobs["promoted"]), strict=True))
            known[row.ids] = [told.get(place, -1.0) - off for place in range(len(row.ids))]
    return lambda ids: known.get(tuple(ids), [-3.0] * len(ids))


def checked(world, name: str, *options: str, served: dict | None = None, env: dict | None = None):
    """The exit code, the line for people and the JSON of a check of a server that answers as a recorded model."""
    served = served or {f"{MODEL}-v2": answering_as(name, record_of(world, "2"))}
    with openai_servers.serving(served, key=(env or {}).get("KEY", "")) as address:
        asked = ["check-serving", address, "--model", MODEL, "--tracking-uri", world.uri, "--json", *options]
        done = CliRunner().invoke(app, asked, env=env)
    lines = done.stdout.splitlines()
    return done.exit_code, done.stderr, json.loads(lines[-1]) if lines else None


def test_what_was_promoted_is_served(replaced):
    code, words, told = checked(replaced, "promoted")
    assert (code, told["verdict"], told["served_version"], told["rows"]) == (0, "promoted", "2", 32)
    assert f"{MODEL}-v2 is nearest to what was promoted, {MODEL} version 2, of the models that are recorded" in words
    assert told["rounding"] is None
    assert list(told["differences"]) == ["promoted", "1", "base"]
    assert told["differences"]["promoted"] == pytest.approx(0, abs=1e-6)


def test_a_server_that_goes_on_with_the_older_version_is_found(replaced):
    code, words, told = checked(replaced, "champion")
    assert (code, told["verdict"], told["served_version"]) == (1, "other_version", "1")
    assert f"is not version 2 of {MODEL} but version 1" in words


def test_a_server_without_the_adapter_is_found(replaced):
    code, words, told = checked(replaced, "base")
    assert (code, told["verdict"], told["served_version"]) == (1, "base", None)
    assert "is the base: no adapter is applied" in words


@pytest.mark.parametrize(("off", "code"), [(0.049, 0), (0.08, 1)])
def test_the_base_of_the_server_tells_how_near_the_adapter_must_be(replaced, off, code):
    """The base is 0.02 nats a token away, so rounding explains 0.05; without it 0.1 would be let pass."""
    record = record_of(replaced, "2")
    served = {"smol": answering_as("base", record, off=0.02), f"{MODEL}-v2": answering_as("promoted", record, off=off)}
    ended, words, told = checked(replaced, "", served=served)
    assert (ended, told["rounding"]) == (code, pytest.approx(0.02))
    assert "; its base 0.02 from the recorded one)" in words
    assert ("is what was promoted" if code == 0 else "the nearest is more than 0.05 nats a token away") in words


def test_a_server_that_rounds_much_is_told_as_nearest_only(replaced):
    record = record_of(replaced, "2")
    found = serving.Served(MODEL, "2", "x", 32, serving.Likeness({"promoted": 0.2, "base": 4.0}, ""), 0.72)
    assert "x is nearest to what was promoted" in found.in_words and found.exit_code == 0
    assert serving.allowed(record, 0.72) == pytest.approx(1.45)


def test_another_adapter_is_not_taken_for_the_base_of_the_server(replaced):
    record = record_of(replaced, "2")
    served = {"other": answering_as("champion", record), f"{MODEL}-v2": answering_as("promoted", record, off=0.05)}
    code, _, told = checked(replaced, "", served=served)
    assert (code, told["verdict"], told["rounding"]) == (0, "promoted", None)


def test_a_trial_that_was_a_candidate_only_is_found(strong):
    """It was never promoted: no version holds it."""
    served = {f"{MODEL}-v1": answering_as("t00", record_of(strong, "1"))}
    code, words, told = checked(strong, "", served=served)
    assert (code, told["verdict"], told["served_version"], told["served_trial"]) == (1, "other_candidate", None, "t00")
    assert f"is not {MODEL} version 1 but another adapter: trial t00, which was a candidate" in words


def test_a_record_without_rows_is_refused(strong, monkeypatch):
    read = serving.decision_record.read

    def empty(content: bytes) -> Decision:
        bare = read(content).model_copy(update={"serving_rows": ()})
        return bare.model_copy(update={"sha256": Registry(strong.uri).version(MODEL, "1").tags[versions.RECORD_DIGEST]})

    monkeypatch.setattr(serving.decision_record, "read", empty)
    monkeypatch.setattr(Decision, "is_whole", True)
    code, words, _ = checked(strong, "", served={f"{MODEL}-v1": lambda ids: [-3.0] * len(ids)})
    assert (code, words.strip()) == (2, f"error: {MODEL}: the decision record of version 1 holds no rows to compare by")


def test_what_is_no_version_is_not_told(replaced):
    code, words, told = checked(replaced, "", served={f"{MODEL}-v2": lambda ids: [-3.0] * len(ids)})
    assert (code, told["verdict"], told["served_version"]) == (1, "unknown", None)
    assert "cannot be told to be answers version 2" in words and "more than 0.1 nats a token away" in words


def test_tokens_of_which_the_server_tells_nothing_do_not_count(replaced):
    record = record_of(replaced, "2")
    promoted = [row.logprobs["promoted"] for row in record.serving_rows]
    rows = [[math.nan] * len(promoted[0]), [math.nan, *promoted[1][1:]], *promoted[2:]]
    models = {"promoted": promoted, "base": [row.logprobs["base"] for row in record.serving_rows]}
    found = serving.nearest(rows, models, 0.1)
    assert (found.served, found.differences["promoted"]) == ("promoted", 0)
    nothing = serving.nearest([[math.nan] * len(row) for row in rows], models, 0.1)
    assert (nothing.served, nothing.unclear) == (None, "the server tells no log-probabilities of these tokens")


def test_a_newer_version_is_found_under_an_older_name_and_key(replaced):
    """Its own record has the numbers, on the same rows."""
    served = {"tickets": answering_as("promoted", record_of(replaced, "2"))}
    options = (f"{MODEL}@previous", "--served-name", "tickets", "--api-key-env", "KEY")
    code, _, told = checked(replaced, "", "--model", *options, served=served, env={"KEY": "k-1"})
    assert (code, told["version"], told["served_version"], told["served_name"]) == (1, "1", "2", "tickets")


def test_a_base_that_was_quantised_is_allowed_more(replaced):
    record = record_of(replaced, "2")
    quantised = record.model_copy(update={"base": record.base.model_copy(update={"quantization": {"scheme": "nf4"}})})
    assert (serving.allowed(record, None), serving.allowed(quantised, None)) == (0.1, 1.0)
    assert serving.allowed(record, None, is_quantised=True) == 1.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "nothing"), "error: no registered model 'nothing'"),
        (("--model", f"{MODEL}@staging"), "has no staging (its aliases: challenger, champion, previous)"),
        (("--served-name", "tickets"), "serves nothing under the name tickets (it serves: answers-v2)"),
        (("--served-name", " "), "--served-name: is empty"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_in_a_line(replaced, options, told):
    code, words, _ = checked(replaced, "promoted", *options)
    assert code == 2
    assert told in words
    assert len(words.splitlines()) == 1


def test_a_record_that_was_changed_is_not_believed(replaced):
    version = Registry(replaced.uri).version(MODEL, "2")
    path = versions.package_path(MODEL, version.tags["promotion.identity"])
    (file,) = replaced.root.glob(f"mlartifacts/*/artifacts/{path}/decision.json")
    raw = json.loads(file.read_text())
    raw["serving_rows"][0]["logprobs"]["promoted"][0] -= 1
    file.write_text(json.dumps(raw))
    with openai_servers.serving({}) as address:
        done = CliRunner().invoke(app, ["check-serving", address, "--model", MODEL, "--tracking-uri", replaced.uri])
    assert done.exit_code == 2
    assert "the decision record of version 2 is not the one that was written" in done.stderr
