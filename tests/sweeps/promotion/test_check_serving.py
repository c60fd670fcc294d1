"""What `qsweep check-serving` says of a server, from its numbers and the records of promoted versions."""

from __future__ import annotations

import json
import math

import numpy as np
import openai_servers
import pytest
from promotion_worlds import package_of
from promotions import MODEL
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.promotion import check_serving, versions
from sweeps.promotion.check_serving import nearest
from sweeps.promotion.decision_record import DecisionRecord
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry

# From numbers alone

ROWS, TOKENS = 32, 12


@pytest.fixture
def models():
    """Log-probabilities of a base, of what was promoted over it, and of an older version between them."""
    draws = np.random.default_rng(7)
    base = -draws.gamma(2.0, 1.0, (ROWS, TOKENS))
    older, promoted = (base + draws.gamma(2.0, gain, base.shape) for gain in (0.1, 0.3))
    return {"promoted": promoted, "base": base, "1": older}


def noisy(values, size):
    """What a server computes in another type, or on a base of another quantisation."""
    return values + np.random.default_rng(8).normal(0, size, values.shape)


@pytest.mark.parametrize("name", ["promoted", "base", "1"])
@pytest.mark.parametrize("noise", [0, 0.03])
def test_the_model_that_is_served_is_found(models, name, noise):
    found = nearest(noisy(models[name], noise), models, 0.04)
    assert found.served == next(iter(found.differences)) == name
    assert found.differences[name] == pytest.approx(noise * np.sqrt(2 / np.pi), rel=0.1, abs=1e-12)


def test_what_is_near_none_is_not_told(models):
    found = nearest(models["promoted"] - 2.0, models, 0.04)
    assert (found.served, found.unclear) == (None, "the nearest is more than 0.04 nats a token away")
    found = nearest(models["base"] * np.nan, models, 0.04)
    assert (found.served, found.unclear) == (None, "the server tells no log-probabilities of these tokens")


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_an_adapter_that_is_applied_in_part_is_neither(models, share):
    """As by a server that divides by r where training divided by its root; however little the adapter changes."""
    part = models["base"] + share * (models["promoted"] - models["base"])
    found = nearest(part, {name: models[name] for name in ("promoted", "base")}, 9.0)
    assert found.served is None
    assert "another is not clearly farther than the nearest" in found.unclear


@pytest.mark.parametrize(("share", "served"), [(0.2, "promoted"), (0.4, None)])
def test_another_adapter_must_be_twice_as_far(models, share, served):
    """`rival` is the next trial, and the server is so far on the way to it."""
    rival = noisy(models["promoted"], 0.1)
    between = models["promoted"] + share * (rival - models["promoted"])
    found = nearest(between, {"promoted": models["promoted"], "base": models["base"], "t00": rival}, 0.2)
    assert found.served == served


def test_a_few_rows_that_tell_are_not_enough():
    """Two of 32 rows carry the whole difference: with other rows it may be gone."""
    promoted = np.zeros((ROWS, TOKENS))
    base = promoted.copy()
    base[:2] -= 5.0
    assert nearest(noisy(promoted, 0.02), {"promoted": promoted.tolist(), "base": base.tolist()}, 0.04).served is None


def test_tokens_of_which_the_server_tells_nothing_do_not_count(models):
    rows = models["promoted"].copy()
    rows[0], rows[1, 0] = math.nan, math.nan
    found = nearest(rows, models, 0.1)
    assert (found.served, found.differences["promoted"]) == ("promoted", 0)


# With versions and a server


def record_of(world, version: str) -> DecisionRecord:
    return check_serving.decision_of(Lookup(world.uri), MODEL, Registry(world.uri).version(MODEL, version))


def answering_as(name: str, record: DecisionRecord, off: float = 0.0) -> openai_servers.Likely:
    """What a server answers with a recorded model on the rows of its record; `off` nats a token from it."""
    known = {}
    for row in record.serving_rows:
        told = dict(zip(row.labelled, row.logprobs[name], strict=True))
        known[row.ids] = [told.get(place, -1.0) - off for place in range(len(row.ids))]
    return lambda ids: known[tuple(ids)]


def checked(world, served: dict | None = None, *options: str, env: dict | None = None):
    """The exit code, the line for people and the JSON of a check of a server."""
    served = served or {f"{MODEL}-v2": lambda ids: [-3.0] * len(ids)}
    with openai_servers.serving(served, key=(env or {}).get("KEY", "")) as address:
        asked = ["check-serving", address, "--model", MODEL, "--tracking-uri", world.uri, "--json", *options]
        done = CliRunner().invoke(app, asked, env=env)
    lines = done.stdout.splitlines()
    return done.exit_code, done.stderr, json.loads(lines[-1]) if lines else None


def test_what_is_served_is_told(replaced):
    nearest_to = f"{MODEL}-v2 is nearest to what was promoted, {MODEL} version 2, of the models that are recorded"
    far = f"cannot be told to be {MODEL} version 2: the nearest is more than 0.1 nats a token away"
    for name, off, code, verdict, version, words in (
        ("promoted", 0.0, 0, "promoted", "2", nearest_to),
        ("champion", 0.0, 1, "other_version", "1", f"is not version 2 of {MODEL} but version 1"),
        ("base", 0.0, 1, "base", None, "is the base: no adapter is applied"),
        ("promoted", 9.0, 1, "unknown", None, far),
    ):
        served = {f"{MODEL}-v2": answering_as(name, record_of(replaced, "2"), off=off)}
        ended, told, found = checked(replaced, served)
        assert (ended, found["verdict"], found["served_version"], found["rows"]) == (code, verdict, version, 32)
        assert (words in told, found["rounding"]) == (True, None), told
        if code == 0:
            assert list(found["differences"]) == ["promoted", "1", "base"]
            assert found["differences"]["promoted"] == pytest.approx(0, abs=1e-6)


def test_the_base_of_the_server_tells_how_near_the_adapter_must_be(replaced):
    """The base is 0.02 nats a token away, so rounding explains 0.05; without it 0.1 would be let pass."""
    record = record_of(replaced, "2")
    for off, code, words in (
        (0.049, 0, "is what was promoted"),
        (0.08, 1, "the nearest is more than 0.05 nats a token"),
    ):
        served = {
            "smol": answering_as("base", record, off=0.02),
            f"{MODEL}-v2": answering_as("promoted", record, off=off),
        }
        ended, told, found = checked(replaced, served)
        assert (ended, found["rounding"], words in told) == (code, pytest.approx(0.02), True), told
        assert "; its base 0.02 from the recorded one)" in told


def test_a_server_that_rounds_much_is_told_as_nearest_only(replaced):
    record = record_of(replaced, "2")
    found = check_serving.Served(MODEL, "2", "x", 32, check_serving.Likeness({"promoted": 0.2, "base": 4.0}, ""), 0.72)
    assert "x is nearest to what was promoted" in found.in_words and found.exit_code == 0
    assert check_serving.allowed(record, 0.72) == pytest.approx(1.45)
    quantised = record.model_copy(update={"base": record.base.model_copy(update={"quantization": {"scheme": "nf4"}})})
    assert (check_serving.allowed(record, None), check_serving.allowed(quantised, None)) == (0.1, 1.0)
    assert check_serving.allowed(record, None, is_quantised=True) == 1.0


def test_a_version_with_dora_that_is_not_served_is_told_to_be_merged():
    differences = {"base": 0.01, "promoted": 4.0}
    found = check_serving.Served(MODEL, "2", "x", 32, check_serving.Likeness(differences, ""), None, is_dora=True)
    assert (
        "x is the base: no adapter is applied: the version has DoRA, which vLLM, SGLang and llama.cpp" in found.in_words
    )
    config = json.dumps({"peft_type": "LORA", "use_dora": True}).encode()
    assert versions.has_dora({"artifacts/adapter/adapter_config.json": config})
    assert not versions.has_dora({"artifacts/adapter/adapter_config.json": b"{}"})


def test_another_adapter_is_not_taken_for_the_base_of_the_server(replaced):
    record = record_of(replaced, "2")
    served = {"other": answering_as("champion", record), f"{MODEL}-v2": answering_as("promoted", record, off=0.05)}
    code, _, told = checked(replaced, served)
    assert (code, told["verdict"], told["rounding"]) == (0, "promoted", None)


def test_a_trial_that_was_a_candidate_only_is_found(strong):
    """It was never promoted: no version holds it."""
    served = {f"{MODEL}-v1": answering_as("t00", record_of(strong, "1"))}
    code, words, told = checked(strong, served)
    assert (code, told["verdict"], told["served_version"], told["served_trial"]) == (1, "other_candidate", None, "t00")
    assert f"is not {MODEL} version 1 but another adapter: trial t00, which was a candidate" in words


def test_a_newer_version_is_found_under_an_older_name_and_key(replaced):
    """Its own record has the numbers, on the same rows."""
    served = {"tickets": answering_as("promoted", record_of(replaced, "2"))}
    options = (f"{MODEL}@previous", "--served-name", "tickets", "--api-key-env", "KEY")
    code, _, told = checked(replaced, served, "--model", *options, env={"KEY": "k-1"})
    assert (code, told["version"], told["served_version"], told["served_name"]) == (1, "1", "2", "tickets")


def test_wrong_input_is_told_in_a_line(replaced):
    for options, told in (
        (("--model", "nothing"), "error: no registered model 'nothing'"),
        (("--model", f"{MODEL}@staging"), "has no staging (its aliases: challenger, champion, previous)"),
        (("--served-name", "tickets"), "serves nothing under the name tickets (it serves: answers-v2)"),
        (("--served-name", " "), "--served-name: is empty"),
    ):
        code, words, _ = checked(replaced, None, *options)
        assert (code, told in words, len(words.splitlines())) == (2, True, 1), words


def test_a_record_that_was_changed_or_holds_no_rows_is_not_believed(replaced):
    def told() -> tuple[int, str]:
        code, words, _ = checked(replaced)
        return code, words.strip()

    file, record = package_of(replaced, "2") / "decision.json", record_of(replaced, "2")
    empty = record.model_copy(update={"serving_rows": ()})
    empty = empty.model_copy(update={"sha256": empty.digest()})
    file.write_bytes(empty.content())
    assert told() == (2, f"error: {MODEL}: the decision record of version 2 is not the one that was written")
    replaced.client.set_model_version_tag(MODEL, "2", "decision_sha256", empty.sha256)
    assert told() == (2, f"error: {MODEL}: the decision record of version 2 holds no rows to compare by")
