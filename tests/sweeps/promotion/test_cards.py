"""The model card: what the hub reads of it, and what people do."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from mlflow.store.artifact.cli import commands as download
from peft import PeftModel
from sweep_files import toy
from transformers import AutoModelForCausalLM

from sweeps.promotion import cards
from sweeps.promotion.gate import Standing, Verdict
from sweeps.statistics.comparison import Comparison
from sweeps.tracking.lookup import TrackedSweep, TrialRun
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective
from trainables.scoring.requests import BaseFacts
from trainables.specs import DataSpec, EvaluationSpec

COMMIT = "0123abc"


def facts(source: str = "owner/name", scheme: str = "nf4", kind: str = "hub", **changed: Any) -> cards.VersionFacts:
    """A promotion of one trial."""
    config, _ = toy()
    trial = TrialRun("run", "key", 1, "COMPLETED", None, None, None, {}, {"r": "8"})
    gains = (Comparison("base", 1.0, 0.9, 1.1),)
    scores = {name: Evaluation(metrics={"eval_loss": loss}) for name, loss in (("base", 2.0), ("t01", 1.0))}
    base = BaseFacts(
        source=source, revision=COMMIT if kind == "hub" else None, kind=kind, files={}, trust_remote_code=False,
        quantization={"scheme": scheme, "double_quant": True, "compute_dtype": "float32"}, licence="mit", form={},
        columns=(), tokenizer={},
    )  # fmt: skip
    made = cards.VersionFacts(
        model="answers",
        alias="champion",
        sweep=TrackedSweep("x-1", "parent", "FINISHED", config, {}, None, (trial,)),
        winner=trial,
        is_chosen=False,
        verdict=Verdict((Standing("t01", LOWEST_LOSS, 0.0, 1.0, gains, 0.99, 40, False),), scores, 0.0),
        rows="data.test",
        base=base,
        unquantised=None,
        forced=(),
        ends={"<|im_end|>": 151645},
    )
    return dataclasses.replace(made, **changed)


def with_trial(told: cards.VersionFacts, **params: str) -> cards.VersionFacts:
    return dataclasses.replace(told, winner=dataclasses.replace(told.winner, params=params))


@pytest.mark.parametrize(
    ("scheme", "loss", "told", "option"),
    [
        ("nf4", 1.25, "in training: nf4, float32. On the base without quantisation t01 has loss 1.2500 on", True),
        ("fp4", None, "in training: fp4, float32. On the base without quantisation t01 was not evaluated.", False),
        ("none", None, "in training: not quantised, float32.", False),
    ],
)
def test_the_card_says_which_base_each_loss_is_of_and_vllm_quantises_it_where_it_can(
    scheme: str, loss: float | None, told: str, option: bool
) -> None:
    of = facts(scheme=scheme, unquantised=loss)
    card = cards.card(of)
    assert told in card and told in cards.description(of)
    assert ("without quantisation" in card) == (scheme != "none")
    assert ("vllm serve BASE --tokenizer artifacts/tokenizer --quantization bitsandbytes --enable" in card) == option
    assert ("vLLM cannot quantise to fp4" in card) == (scheme == "fp4")


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


def test_the_card_says_what_the_rows_show_and_cannot_show_and_warns() -> None:
    told = facts()
    told = dataclasses.replace(told, verdict=dataclasses.replace(told.verdict, warnings=("only 3 rows carry it",)))
    card = cards.card(told)
    interval = "(99% confidence interval 0.9000 to 1.1000 on 40 rows)"
    assert f"Loss 1.0000 on data.test: 1.0000 lower than the base {interval}." in card
    assert "\n40 rows: about 1 case in 13 (7.5%) may be worse by any amount, and these rows would not show it; " in card
    assert "**Warning**: only 3 rows carry it.\n\n## Training" in card


def test_the_card_says_how_its_files_are_downloaded() -> None:
    """By a command that MLflow takes as it stands, before the lines that need the files."""
    card = cards.card(facts())
    (command,) = re.findall(r"`(mlflow artifacts download .*)`", card)
    assert card.index(command) < card.index('artifacts/adapter")')
    program, group, verb, *options = shlex.split(command)
    assert (program, group) == ("mlflow", "artifacts")
    with download.commands[verb].make_context(verb, options) as parsed:
        assert (parsed.params["artifact_uri"], parsed.params["dst_path"]) == ("models:/answers/VERSION", ".")


def test_the_settings_of_a_trial_do_not_repeat_what_other_lines_say() -> None:
    told = with_trial(
        facts(), r="8", learning_rate="0.002", log10_learning_rate="-2.699", train_data="/home/ana/rows.jsonl"
    )
    for text in (cards.card(told), cards.description(told)):
        assert "- r 8, learning_rate 0.002\n" in text
        assert "/home/ana" not in text


def test_vllm_is_told_a_rank_that_it_takes() -> None:
    for rank, most in (("1", 1), ("4", 8), ("24", 32)):
        card = cards.card(with_trial(facts(), r=rank))
        assert f"--max-lora-rank {most} --lora-modules answers-vVERSION=artifacts/adapter" in card
    assert "vllm serve" not in cards.card(with_trial(facts(), r="513"))


def test_the_card_says_where_answers_end_and_what_a_chat_is() -> None:
    told = facts()
    card = cards.card(told)
    assert "ended answers with the token `<|im_end|>` (151645)" in card
    assert "JSON of a chat" not in card
    config = told.sweep.config.model_copy(update={"data": DataSpec(train="train.jsonl", messages="talk")})
    card = cards.card(facts(ends={}, sweep=dataclasses.replace(told.sweep, config=config)))
    assert "It is not known where an answer ends: no row" in card
    assert "`talk` is the JSON of a chat, with its system message" in card


def test_the_card_says_how_the_winner_was_found() -> None:
    """Not as the sweep's best: that is ranked on other rows. A repeat is no trial of its own."""
    told = facts()
    again = dataclasses.replace(told.winner, trial_key="other", number=2, repeats="key")
    told = dataclasses.replace(told, sweep=dataclasses.replace(told.sweep, trials=(told.winner, again)))
    assert "- the best on the rows that decided of 1 candidate, out of 1 trials" in cards.card(told)
    assert "- chosen by hand, one of 1 trials" in cards.card(dataclasses.replace(told, is_chosen=True))
    assert "- a repeat of one of 1 trials" in cards.card(dataclasses.replace(told, winner=again))


def test_the_scores_that_do_not_decide_are_told_beside_it() -> None:
    """A grader's first number, and all of a function's; nothing is evaluated for it."""
    scored = EvaluationSpec(metrics=("json_fields", "own:tone"))
    metrics = {"json_fields": 0.25, "json_fields_recall": 0.5, "tone_warm": 0.75, "answers_ended": 1.0}
    verdict = facts().verdict
    own = Evaluation(metrics=verdict.scores["t01"].metrics | metrics)
    verdict = dataclasses.replace(verdict, scores={**verdict.scores, "t01": own})
    assert cards.other_metrics(verdict, scored) == [
        "json_fields (does not decide): t01 0.2500",
        "tone_warm (does not decide): t01 0.7500",
        "answers_ended (does not decide): t01 1.0000",
    ]
    by_fields = dataclasses.replace(verdict.best, objective=Objective(metric="json_fields", mode="max"))
    lines = cards.other_metrics(dataclasses.replace(verdict, candidates=(by_fields,)), scored)
    assert lines[0] == "eval_loss (does not decide): base 2.0000, t01 1.0000"
    assert not any(line.startswith("json_fields") for line in lines)
