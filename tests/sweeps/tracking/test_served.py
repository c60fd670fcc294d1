"""What a packaged model reads, and where it stops, without a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model

from sweeps.tracking import model_package, served, serving_check
from trainables import qlora
from trainables.base.model_files import sampled_digest
from trainables.contract import Evaluation
from trainables.data import questions, templates
from trainables.data.rendering import Renderer
from trainables.data.templates import Placed
from trainables.grading import catalogue
from trainables.packing.answers import Grading
from trainables.packing.generation import rank_plain
from trainables.specs import DataSpec, EvaluationSpec

FORM = {"prompt": None, "completion": None, "messages": None, "text": None, "system": None}
CHAT = [
    {"role": "system", "content": "Answer as JSON only."},
    {"role": "user", "content": "Where is my order?"},
    {"role": "assistant", "content": "{}"},
    {"role": "user", "content": "And Ana's?"},
    {"role": "assistant", "content": '{"order": 4711}'},
]


def model(form: dict[str, Any], ends: dict[str, int] | None = None) -> Any:
    """A packaged model that is loaded but for its weights."""
    made: Any = served.PromotedAdapter()
    made._base = {"form": FORM | form, "ends": ends or {}, "labels": []}
    made._tokenizer = tiny_models.tokenizer()
    return made


def ids_of(talk: Any) -> list[int]:
    """The tokens of a chat's prompt."""
    return model({"messages": "talk"}).prompt_ids({"talk": talk})


@pytest.mark.filterwarnings("ignore:.*ends with a message of the assistant")
@pytest.mark.parametrize("train_on", ["last", "all"])
def test_a_chat_is_asked_with_its_system_message_and_all_its_turns(train_on) -> None:
    renderer = Renderer(DataSpec(train="x.jsonl", messages="talk", train_on=train_on), tiny_models.tokenizer())
    (row,) = renderer.encode([renderer.text({"talk": CHAT})])
    sample = {"ids": row.ids, "labelled": [place for place, counts in enumerate(row.labelled) if counts]}
    ids = ids_of(json.dumps(CHAT[:-1]))
    asked = "<|system|>Answer as JSON only.<|end|><|user|>Where is my order?<|end|><|assistant|>{}<|end|><|user|>And"
    assert tiny_models.tokenizer().decode(ids) == f"{asked} Ana's?<|end|><|assistant|>"
    assert serving_check.is_prompt(ids, sample)
    # Each message counts, also behind an answer that is learnt.
    for gone in range(len(CHAT) - 1):
        without = json.dumps(CHAT[:gone] + CHAT[gone + 1 : -1])
        assert not serving_check.is_prompt(ids_of(without), sample)


def test_a_chat_that_ends_with_an_answer_is_answered_with_a_warning() -> None:
    """Not refused: rows to train on may hold two messages of the assistant in a row."""
    with pytest.warns(UserWarning, match="'talk' ends with a message of the assistant, and the answer follows on it"):
        ids = ids_of(json.dumps(CHAT))
    assert tiny_models.tokenizer().decode(ids).endswith('{"order": 4711}<|end|><|assistant|>')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids_of(json.dumps(CHAT[:-1]))


def test_a_call_without_a_text_is_read_as_in_training() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find"}}], "refusal": None}
    talk = [CHAT[1], call, {"role": "tool", "content": "sent"}]
    told = templates.chat({"talk": [*talk, CHAT[2]]}, "talk")[:-1]
    assert ids_of(json.dumps(talk)) == ids_of(json.dumps(told))
    assert served._chat({"talk": json.dumps(talk)}, "talk") == told


@pytest.mark.parametrize("wrong", ["Hello", "{}", "[]", '["Hello"]', '[{"role": "user", "content": 1}]', None])
def test_what_is_no_chat_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"column 'talk' must be the JSON of a chat, a list of \{role, content\}"):
        ids_of(wrong)
    with pytest.raises(ValueError, match=r"as one text: json\.dumps\(chat\)$"):
        ids_of(CHAT[:1])


@pytest.mark.parametrize(
    ("own", "ends", "stops", "temperature"),
    [
        (0, {"<|end|>": 1}, [0, 1], 0.0),
        ([1, 7], {"<|end|>": 1}, [1, 7], 0.5),
        (None, {"<|end|>": 1}, [1], 0.0),
        (None, {}, None, 0.5),
    ],
)
def test_it_stops_where_training_ended_its_answers_and_where_its_base_does(own, ends, stops, temperature) -> None:
    asked: dict[str, Any] = {}

    def generate(**words: Any) -> torch.Tensor:
        asked.update(words)
        answer = torch.tensor([tiny_models.tokenizer()("fine<|end|>")["input_ids"]])
        return torch.cat([words["input_ids"], answer], dim=1)

    made = model({"prompt": "{question}"}, ends)
    config = SimpleNamespace(eos_token_id=own, repetition_penalty=1.3)
    made._model = SimpleNamespace(device="cpu", generate=generate, generation_config=config)
    row = pandas.DataFrame([{"question": "How?"}])
    assert made.predict(None, row, {"max_new_tokens": 5, "temperature": temperature}) == ["fine"]
    assert asked.get("eos_token_id", "none") == (stops or "none")
    assert (asked["repetition_penalty"], asked["max_new_tokens"], asked["do_sample"]) == (1.0, 5, temperature > 0)


LABELS = ["no", " the", "x<|end|>", "e printer"]
PAIR: dict[str, Any] = {"prompt": "Is {n} it?", "completion": "{answer}"}


@pytest.mark.parametrize("at_once", [8192, 1])
@pytest.mark.parametrize(
    ("fields", "is_chat"),
    [
        (PAIR, True),
        (PAIR | {"system": "Be short."}, True),
        (PAIR, False),
        # The end of the prompt and the start of a label are one token, of some labels alone.
        (PAIR | {"prompt": "It is {n} and th"}, False),
        ({"messages": "talk"}, True),
        ({"messages": "talk", "train_on": "all"}, True),
    ],
)
def test_it_answers_with_the_label_that_the_metric_counts_though_it_would_generate_none(
    monkeypatch, fields, is_chat, at_once
):
    monkeypatch.setattr(served, "_CACHED_TOKENS", at_once)
    data, how = DataSpec(train="x.jsonl", **fields), EvaluationSpec(metrics=("choice",))
    tokenizer = tiny_models.tokenizer()
    if not is_chat:
        tokenizer.chat_template = None
    rows: list[dict[str, Any]] = [{"n": n, "answer": LABELS[n % 4]} for n in range(24)]
    if data.messages is not None:
        rows = [
            {
                "talk": [
                    *CHAT[:3],
                    {"role": "user", "content": f"Is {row['n']} it?"},
                    {"role": "assistant", "content": row["answer"]},
                ]
            }
            for row in rows
        ]
    renderer, graders = Renderer(data, tokenizer), catalogue.graders(how)
    labels = catalogue.ranked_labels(graders, LABELS)
    asked = questions.ask(renderer, [Placed("", row, 0) for row in rows], graders, labels, None)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(tiny_models.build("llama"), adapter).eval()
    grading = Grading(asked, how, tokenizer)
    losses = rank_plain(adapted, grading.label_rows(), torch.device("cpu"))
    counted = grading.grade(Evaluation(metrics={"eval_loss": 1.0}, row_tokens=(1,) * 24), (), losses)
    assert isinstance(counted, Evaluation)

    made = model({name: getattr(data, name) for name in FORM}, {"<|end|>": 1})
    made._base["labels"] = [renderer.without_end(label) for label in labels]
    made._tokenizer, made._model = tokenizer, adapted
    given = rows if data.messages is None else [{"talk": json.dumps(row["talk"][:-1])} for row in rows]
    answers = made.predict(None, pandas.DataFrame(given))
    assert answers == [str(row.ranked).replace("<|end|>", "") for row in counted.answers]
    # The same sums by two routes: only the order of the additions differs.
    assert [loss for row in given for loss in made.label_losses(row).values()] == pytest.approx(losses, rel=1e-5)
    generated = made.predict(None, pandas.DataFrame(given[:2]), {"generate": True, "max_new_tokens": 4})
    assert not {text.strip() for text in generated} & {label.strip() for label in made._base["labels"]}


def test_of_equally_likely_labels_the_first_is_the_answer(monkeypatch):
    """As in the metric, which takes the first of the lowest losses."""
    made = model({"prompt": "{question}"})
    made._base["labels"] = ["c", "b", "a"]
    monkeypatch.setattr(made, "label_losses", lambda _row: {"c": 2.0, "b": 1.0, "a": 1.0})
    assert made.predict(None, pandas.DataFrame([{"question": "How?"}]), {}) == ["b"]


def test_a_served_model_refuses_another_base(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    digest = sampled_digest(base / "model.safetensors")
    facts = {"source": str(base), "kind": "folder", "files": {"model.safetensors": digest}}
    assert served._located(facts) == str(base)
    (base / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ValueError, match="is not the one that the adapter was trained on: model"):
        served._located(facts)
    lost = ((str(tmp_path / "nowhere"), "is not there"), ("package:no_such/m.gguf", "install the package no_such that"))
    for source, way_out in lost:
        with pytest.raises(FileNotFoundError, match=way_out):
            served._located(facts | {"source": source})


QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE")
"""What quiets the libraries in other tests: here the model does it."""
LOADED = """
import mlflow, sys
from transformers.utils import logging
model = mlflow.pyfunc.load_model(sys.argv[1])
assert logging.get_verbosity() == logging.WARNING and logging.is_progress_bar_enabled()
"""


def test_loading_prints_nothing_and_leaves_the_libraries_as_talkative_as_they_were(tmp_path: Path) -> None:
    data = DataSpec(train="rows.jsonl", prompt="{question}", completion="{answer}")
    of = tiny_models.trial_on(tiny_models.save("llama", tmp_path / "base")).model_copy(update={"data": data})
    adapted = get_peft_model(tiny_models.build("llama"), LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    adapter = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    base = qlora.open_scorer(of, tmp_path / "cache").base_facts()
    assert base.quantization["scheme"] == "nf4"
    model_package.write(tmp_path / "model", model_package.Contents(adapter, base, "card", None, {}))
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [sys.executable, "-c", LOADED, str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
