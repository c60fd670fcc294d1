"""The model card: what the hub reads of it, and what people do."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from mlflow.store.artifact.cli import commands as download
from peft import PeftModel
from promotions import base_facts
from sweep_files import toy
from transformers import AutoModelForCausalLM

from sweeps.config.model import RefitOf
from sweeps.promotion import cards
from sweeps.promotion.gate import GateRule, Standing, Verdict
from sweeps.statistics.comparison import Comparison
from sweeps.tracking.lookup import TrackedSweep, TrialRun
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.specs import DataSpec, EvaluationSpec

COMMIT = "0123abc"


RULE = GateRule(objective=LOWEST_LOSS, min_gain=0.0, candidates=("t01",))


def facts(source: str = "owner/name", scheme: str = "nf4", kind: str = "hub", **changed: Any) -> cards.VersionFacts:
    """A promotion of one trial."""
    trial = TrialRun("run", "key", 1, "COMPLETED", None, None, None, {}, {"r": "8"})
    gains = (Comparison("base", 1.0, 0.9, 1.1),)
    scores = {name: Evaluation(metrics={"eval_loss": loss}) for name, loss in (("base", 2.0), ("t01", 1.0))}
    quantization = {"scheme": scheme, "double_quant": True, "compute_dtype": "float32"}
    revision = COMMIT if kind == "hub" else None
    base = base_facts(source=source, revision=revision, kind=kind, quantization=quantization, licence="mit")
    told: dict[str, Any] = {
        "sweep": TrackedSweep("x-1", "parent", "FINISHED", toy()[0], {}, None, (trial,)),
        "winner": trial,
        "chosen": None,
        "verdict": Verdict((Standing("t01", LOWEST_LOSS, 0.0, 1.0, gains, 0.99, 40, False),), scores, RULE),
        "unquantised": None,
        "ends": {"<|im_end|>": 151645},
        "labels": {},
    } | changed
    context: Any = SimpleNamespace(
        model="answers", alias="champion", sweep=told["sweep"], request=SimpleNamespace(trial=told["chosen"])
    )
    answer = SimpleNamespace(ends=told["ends"], labels=told["labels"])
    winner: Any = SimpleNamespace(
        candidate=SimpleNamespace(trial=told["winner"]),
        verdict=told["verdict"],
        evidence=SimpleNamespace(rows="data.test", answer=answer),
    )
    return cards.VersionFacts(context, winner, base, told["unquantised"], ())


FACTS = facts()
SWEEP, VERDICT = FACTS.context.sweep, FACTS.winner.verdict
AGAIN = dataclasses.replace(FACTS.trial, trial_key="other", number=2, repeats="key")
REPEATED = dataclasses.replace(SWEEP, trials=(FACTS.trial, AGAIN))
WARNED = dataclasses.replace(VERDICT, warnings=("only 3 rows carry it",))
CHATS = SWEEP.config.model_copy(update={"data": DataSpec(train="train.jsonl", messages="talk")})
SETTINGS = {"r": "8", "learning_rate": "0.002", "log10_learning_rate": "-2.699", "train_data": "/home/ana/rows.jsonl"}
UNQUANTISED = "On the base without quantisation t01"


def ranked(rank: str) -> dict[str, Any]:
    return {"winner": dataclasses.replace(FACTS.trial, params={"r": rank})}


@pytest.mark.parametrize(
    ("changed", "there", "not_there"),
    [
        # Which base each loss is of; vLLM quantises it where it can.
        ({"unquantised": 1.25}, f"in training: nf4, float32. {UNQUANTISED} has loss 1.2500 on", None),
        ({}, "vllm serve BASE --tokenizer artifacts/tokenizer --quantization bitsandbytes --enable", "to fp4"),
        ({"scheme": "fp4"}, f"in training: fp4, float32. {UNQUANTISED} was not evaluated.", "--quantization"),
        ({"scheme": "fp4"}, "vLLM cannot quantise to fp4", None),
        ({"scheme": "none"}, "in training: not quantised, float32.", "without quantisation"),
        ({"labels": {"ham": "ham", "spam": "spam"}}, "`predict` answers with the likeliest label in `artifacts", None),
        ({}, "", "likeliest"),
        # A rank that vLLM takes.
        (ranked("1"), "--max-lora-rank 1 --lora-modules answers-vVERSION=artifacts/adapter", None),
        (ranked("4"), "--max-lora-rank 8 ", None),
        (ranked("24"), "--max-lora-rank 32 ", None),
        (ranked("513"), "", "vllm serve"),
        # What the rows show and cannot show.
        (
            {},
            "Loss 1.0000 on data.test: 1.0000 lower than the base (99% confidence interval 0.9000 to 1.1000 on 40",
            None,
        ),
        (
            {},
            "\n40 rows: about 1 case in 13 (7.5%) may be worse by any amount, and these rows would not show it; ",
            None,
        ),
        ({"verdict": WARNED}, "**Warning**: only 3 rows carry it.\n\n## Training", None),
        # The settings do not repeat what other lines say.
        ({"winner": dataclasses.replace(FACTS.trial, params=SETTINGS)}, "- r 8, learning_rate 0.002\n", "/home/ana"),
        # Where answers end, and what a chat is.
        ({}, "ended answers with the token `<|im_end|>` (151645)", "JSON of a chat"),
        ({"ends": {}}, "It is not known where an answer ends: no row", None),
        (
            {"sweep": dataclasses.replace(SWEEP, config=CHATS)},
            *("`talk` is the JSON of a chat, with its system message", None),
        ),
        # Not the sweep's best: that is ranked on other rows. A repeat is no trial of its own.
        ({"sweep": REPEATED}, "- the best on the rows that decided of 1 candidate, out of 1 trials", None),
        ({"sweep": REPEATED, "chosen": "t01"}, "- chosen by hand, one of 1 trials", None),
        ({"sweep": REPEATED, "winner": AGAIN}, "- a repeat of one of 1 trials", None),
    ],
)
def test_the_card_says(changed: dict[str, Any], there: str, not_there: str | None) -> None:
    card = cards.card(facts(**changed))
    assert there in card
    assert not_there is None or not_there not in card


def test_the_description_says_as_much_of_losses_and_settings() -> None:
    winner = dataclasses.replace(FACTS.trial, params=SETTINGS)
    told = cards.description(facts(unquantised=1.25, winner=winner))
    assert f"in training: nf4, float32. {UNQUANTISED} has loss 1.2500 on" in told
    assert "- r 8, learning_rate 0.002\n" in told and "/home/ana" not in told


@pytest.mark.parametrize(("kind", "scheme"), [("hub", "nf4"), ("hub", "none"), ("gguf", "nf4")])
def test_the_card_loads_the_base_as_training_did(monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str) -> None:
    source = "owner/name" if kind == "hub" else "package:yaml/model.gguf"
    card = cards.card(facts(source, scheme, kind))
    (lines,) = re.findall(r"```python\n(from (?:peft|importlib).*?)```", card, re.DOTALL)
    model, adapted = Mock(), Mock()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", model)
    monkeypatch.setattr(PeftModel, "from_pretrained", adapted)
    exec(lines, {})
    (origin,), options = model.call_args
    assert origin == {"hub": source, "gguf": "base"}[kind]
    assert (options["dtype"], options.get("revision")) == ("float32", COMMIT if kind == "hub" else None)
    quantised = options.get("quantization_config")
    assert quantised is None if scheme == "none" else quantised.bnb_4bit_quant_type == "nf4"
    assert quantised is None or (quantised.load_in_4bit and quantised.bnb_4bit_use_double_quant)
    if kind == "gguf":
        (folder,), asked = model.call_args_list[0]
        assert folder == str(Path(yaml.__file__).parent)
        assert (asked["gguf_file"], asked["dtype"]) == ("model.gguf", "float32")
    assert adapted.call_args.args == (model.return_value, "artifacts/adapter")


@pytest.mark.parametrize("source", ["owner/name", "/models/mine"])
def test_the_hub_finds_a_base_that_it_has_by_its_bare_id_and_people_the_commit(source: str) -> None:
    is_there = source == "owner/name"
    _, head, text = cards.card(facts(source, kind="hub" if is_there else "folder")).split("---\n", 2)
    expected = {"license": "mit", "library_name": "peft", "tags": ["lora"]}
    assert yaml.safe_load(head) == expected | ({"base_model": "owner/name"} if is_there else {})
    assert f"- base: `{source}{f' at {COMMIT}' if is_there else ''}`, nf4, float32; licence: mit" in text


def test_the_card_says_how_its_files_are_downloaded() -> None:
    """By a command that MLflow takes as it stands, before the lines that need the files."""
    card = cards.card(facts())
    (command,) = re.findall(r"`(mlflow artifacts download .*)`", card)
    assert card.index(command) < card.index('artifacts/adapter")')
    program, group, verb, *options = shlex.split(command)
    assert (program, group) == ("mlflow", "artifacts")
    with download.commands[verb].make_context(verb, options) as parsed:
        assert (parsed.params["artifact_uri"], parsed.params["dst_path"]) == ("models:/answers/VERSION", ".")


def test_the_scores_that_do_not_decide_are_told_beside_it() -> None:
    """A grader's first number, and all of a function's; nothing is evaluated for it."""
    scored = EvaluationSpec(metrics=("json_fields", "own:tone"))
    metrics = {"json_fields": 0.25, "json_fields_recall": 0.5, "tone_warm": 0.75, "answers_ended": 1.0}
    scores = VERDICT.scores
    own = Evaluation(metrics=scores["t01"].metrics | metrics)
    verdict = dataclasses.replace(VERDICT, scores={**scores, "t01": own})
    told = [f"{name} (does not decide): t01 {metrics[name]:.4f}" for name in ("tone_warm", "answers_ended")]
    assert cards.other_metrics(verdict, scored) == ["json_fields (does not decide): t01 0.2500", *told]
    by_fields = dataclasses.replace(verdict.best, objective=Objective(metric="json_fields", mode="max"))
    losses = "eval_loss (does not decide): base 2.0000, t01 1.0000"
    assert cards.other_metrics(dataclasses.replace(verdict, candidates=(by_fields,)), scored) == [losses, *told]


def test_card_and_description_of_a_refit_name_the_trial_that_it_trained_anew():
    config = SWEEP.config.model_copy(update={"refit_of": RefitOf(sweep="first-1", trial="t03", trial_key="abc")})
    of = facts(sweep=dataclasses.replace(SWEEP, config=config))
    assert "- refit of trial t03 of the sweep `first-1`" in cards.card(of).splitlines()
    assert "- sweep `x-1`, trial t01 (`key`), a refit of t03 of `first-1`" in cards.description(of).splitlines()
    assert "refit" not in cards.card(FACTS) + cards.description(FACTS)
