"""Answers are scored the same alone and beside others, ranked or generated; a failure is that of its trial alone."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import packs
import pytest
import tiny_models
import torch
from tokenizers import normalizers

from trainables import qlora
from trainables.contract import Evaluation, Failure
from trainables.data import dataset, questions
from trainables.data.rendering import Renderer
from trainables.data.templates import Placed
from trainables.grading import catalogue
from trainables.packing import adapter_pack
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.answers import Grading
from trainables.packing.engine import Answer
from trainables.scoring.requests import BASE, ScoringRequest
from trainables.specs import DataSpec, EvaluationSpec, ModelSpec, TrialSpec

LABELS = ("no", "the printer", "yes")
RAISES = """
def shouts(row, answer):
    if answer == 'yes':
        raise KeyError('loud')
    return {"len": 1.0, "one": 1.0}

shouts.metrics = {"len": "max", "one": "max"}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    tiny_models.save("llama", folder / "base")
    write(folder / "mixed.jsonl", [(f"Is {n} it?", LABELS[n % 3]) for n in range(24)])
    write(folder / "yes.jsonl", [(f"Is {n} it?", "yes") for n in range(100, 124)])
    write(folder / "eval.jsonl", [(f"Is {n} it?", LABELS[n % 3]) for n in range(200, 212)])
    return folder


def write(file: Path, rows: list[tuple[str, str]]) -> None:
    file.write_text("".join(json.dumps({"question": asked, "answer": answer}) + "\n" for asked, answer in rows))


def spec(root: Path, *metrics: Any, train: str = "mixed", evaluated: str = "eval", **how: Any) -> TrialSpec:
    files: dict[str, Any] = {"train": str(root / f"{train}.jsonl"), "eval": str(root / f"{evaluated}.jsonl")}
    own = {
        "model": ModelSpec(source=str(root / "base")),
        "data": DataSpec(**files, prompt="{question}", completion="{answer}"),
        "evaluation": EvaluationSpec(metrics=metrics, **how),
    }
    return packs.spec(steps=40, batch_size=4).model_copy(update=own)


def opened(of: TrialSpec, root: Path, *steps: int) -> AdapterPack:
    """A pack with a trial of its own seed in each slot, trained for so many steps."""
    pack = qlora.open_pack(of, qlora.prepare(of, root / "cache").payload, root / "cache")
    assert isinstance(pack, AdapterPack)
    for slot, count in enumerate(steps):
        pack.open(slot, of.model_copy(update={"seed": slot}))
        for _ in range(count):
            pack.step([slot])
    return pack


def scored(pack: AdapterPack, *slots: int) -> list[Evaluation]:
    found = pack.evaluate(slots, slots)
    return [evaluation(found[slot]) for slot in slots]


def evaluation(found: Evaluation | Failure) -> Evaluation:
    assert isinstance(found, Evaluation), found
    return found


@pytest.fixture(params=packs.ENGINES, ids=lambda engine: engine.__name__)
def engine(request, monkeypatch):
    monkeypatch.setattr(adapter_pack, "choose_engine", lambda base, _wanted: (request.param(base), "chosen"))


@pytest.mark.usefixtures("engine")
def test_answers_are_scored_the_same_alone_beside_others_and_after_a_restore(root: Path) -> None:
    of = spec(root, "exact_match", {"contains": {"lower": True}}, "choice", examples=7)
    pack, other = opened(of, root, 3, 20, 8), opened(of, root)
    together = scored(pack, 0, 1, 2)
    for slot, found in enumerate(together):
        other.open(slot + 2, of.model_copy(update={"seed": slot}), other.restored(pack.adapter(slot)))
        for again in (*scored(pack, slot), *scored(other, slot + 2)):
            assert (again.row_values.keys(), again.answers) == (found.row_values.keys(), found.answers)
            assert scores(again) == scores(found)
            assert again.metrics == pytest.approx(found.metrics, rel=packs.FP32)
    assert len({tuple(row.answer for row in found.answers) for found in together}) == 3, "three trials, three answers"


def scores(of: Evaluation) -> dict[str, float]:
    """Those of answers, which are counted. Losses are sums, and round."""
    return {name: value for name, value in of.metrics.items() if not name.startswith("eval_")}


def test_an_evaluation_holds_each_score_of_each_answered_row(root: Path) -> None:
    of = spec(root, "exact_match", "choice", examples=7)
    pack = opened(of, root, 20)
    (found,) = scored(pack, 0)
    places = tuple(sorted(dataset.order(0, 12, 0)[:7].tolist()))
    assert found.row_places == tuple(row.row for row in found.answers) == places
    assert found.metrics.keys() == qlora.metrics(of).keys() | {"eval_bits_per_byte"}
    for metric in ("exact_match", "choice", "answers_ended"):
        values = found.row_values[metric]
        assert found.metrics[metric] == pytest.approx(sum(values) / 7)
        assert found.places_of(metric) == places
    for place, row in enumerate(found.answers):
        assert row.scores == {name: found.row_values[name][place] for name in ("exact_match", "choice")}
        assert (row.prompt, row.expected) == (f"Is {200 + row.row} it?", LABELS[(200 + row.row) % 3])
        assert row.is_ended == bool(found.row_values["answers_ended"][place])
    assert len(found.row_values["eval_row_loss"]) == 12
    plain = evaluation(pack.evaluate([0])[0])
    assert plain.answers == () and plain.metrics.keys() == {"eval_loss", "eval_row_loss", "eval_bits_per_byte"}
    assert plain.row_losses == found.row_losses
    (everything,) = scored(opened(spec(root, "exact_match"), root, 0), 0)
    assert (everything.row_places, len(everything.answers)) == ((), 12)


def test_the_likeliest_label_is_the_one_of_the_highest_probability(root: Path) -> None:
    of = spec(root, "choice")
    pack = opened(of, root)
    base = evaluation(pack.evaluate_base())
    model = tiny_models.build("llama").eval()
    asked = questions.read_questions(qlora.prepare(of, root / "cache").payload)
    assert asked is not None
    for question, row in zip(asked.rows, base.answers, strict=True):
        sums = []
        for label in question.labels:
            ids = torch.tensor([[*question.ids[: question.shared], *label]])
            with torch.no_grad():
                logs = model(input_ids=ids).logits[0, question.shared - 1 : -1].double().log_softmax(-1)
            sums.append(float(logs.gather(1, torch.tensor(label)[:, None]).sum()))
        assert row.answer == asked.labels[sums.index(max(sums))]
        assert row.is_ended
    assert "answers_ended" not in base.metrics, "nothing is generated"


def test_a_ranked_label_is_right_whatever_unicode_form_tokens_have_and_is_kept_beside_what_is_generated() -> None:
    made = tiny_models.tokenizer()
    made.backend_tokenizer.normalizer = normalizers.NFC()
    labels = [unicodedata.normalize("NFD", text) for text in ("Santé", "Économie")]
    rows = [Placed(f"row {n}", {"q": f"{n}?", "a": label}, 0) for n, label in enumerate(labels)]
    how = EvaluationSpec(metrics=("choice", "exact_match"))
    renderer = Renderer(DataSpec(train="rows.jsonl", prompt="{q}", completion="{a}"), made)
    asked = questions.ask(renderer, rows, catalogue.graders(how), labels, None)
    plain = Evaluation(metrics={"eval_loss": 1.0}, row_losses=(1.0, 1.0), row_tokens=(1, 1))
    generated = [Answer(made.encode(text), is_ended=True) for text in ("Santé", "?")]
    found = evaluation(Grading(asked, how, made).grade(plain, generated, [0.0, 5.0, 5.0, 0.0]))
    scores = (found.metrics["choice"], found.metrics["choice_macro_f1"], found.metrics["exact_match"])
    assert scores == (1.0, 1.0, 0.5)
    assert [(row.expected, row.ranked, row.answer) for row in found.answers] == [
        (labels[0], labels[0], "Santé"),
        (labels[1], labels[1], "?"),
    ]


def test_a_model_that_learns_to_answer_yes_answers_yes(root: Path) -> None:
    of = spec(root, "exact_match", "choice", train="yes", evaluated="yes_too")
    write(root / "yes_too.jsonl", [(f"Is {n} it?", "yes") for n in range(300, 312)])
    with pytest.raises(ValueError, match=r"evaluation\.metrics\.1: choice: has fewer than two labels"):
        qlora.prepare(of, root / "cache")
    of = spec(root, "exact_match", {"choice": {"labels": LABELS}}, train="yes", evaluated="yes_too")
    pack = opened(of, root, 40)
    base, (tuned,) = evaluation(pack.evaluate_base()), scored(pack, 0)
    assert base.metrics["exact_match"] == 0.0
    assert (tuned.metrics["exact_match"], tuned.metrics["choice"], tuned.metrics["answers_ended"]) == (1.0, 1.0, 1.0)
    assert {row.answer for row in tuned.answers} == {"yes"}


def test_where_a_grader_raises_its_scores_are_missing_in_that_slot_alone(root: Path, monkeypatch) -> None:
    (root / "loud_graders.py").write_text(RAISES)
    monkeypatch.syspath_prepend(str(root))
    of = spec(root, "loud_graders:shouts", "exact_match", train="yes", evaluated="other")
    write(root / "other.jsonl", [(f"Is {n} it?", "no") for n in range(300, 306)])
    pack = opened(of, root, 0, 40, 0)
    found = pack.evaluate([0, 1, 2], [0, 1, 2])
    loud = evaluation(found[1])
    both = "shouts_len and shouts_one, evaluation row, line 1: KeyError: 'loud'"
    assert loud.unscored == {"shouts_len": both, "shouts_one": both}, "the row lacks both"
    assert (loud.metrics["exact_match"], "shouts_len" in loud.metrics, loud.answers[0].answer) == (0.0, False, "yes")
    assert loud.metrics["eval_loss"] == evaluation(pack.evaluate([1])[1]).metrics["eval_loss"]
    assert "unscored" not in loud.document()
    for slot in (0, 2):
        assert (evaluation(found[slot]).metrics["shouts_one"], evaluation(found[slot]).unscored) == (1.0, {})


def test_where_memory_is_lacking_fewer_slots_answer_together_and_one_that_lacks_it_alone_has_no_score(
    root: Path, monkeypatch
) -> None:
    pack = opened(spec(root, "exact_match"), root, 0, 0, 0)
    whole, asked = type(pack._engine).generate, []

    def generate(self, prompts, how):
        asked.append({prompt.slot for prompt in prompts})
        if 1 in asked[-1] or len(asked[-1]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, prompts, how)

    monkeypatch.setattr(type(pack._engine), "generate", generate)
    found = pack.evaluate([0, 1, 2], [0, 1, 2])
    assert asked[0] == {0, 1, 2}
    assert evaluation(found[1]).unscored == dict.fromkeys(("exact_match", "answers_ended"), "CUDA out of memory.")
    assert evaluation(found[0]).answers and evaluation(found[2]).answers


def test_the_base_is_answered_anew_where_only_its_losses_are_known(root: Path) -> None:
    first = evaluation(opened(spec(root, "exact_match"), root).evaluate_base())
    again = evaluation(opened(spec(root, "contains"), root).evaluate_base())
    assert again.row_losses == first.row_losses
    assert (set(first.metrics) ^ set(again.metrics)) == {"exact_match", "contains"}
    assert [row.answer for row in first.answers] == [row.answer for row in again.answers]


def test_plain_peft_scores_drawn_answers_as_the_pack_does(root: Path) -> None:
    of = spec(root, "exact_match", "choice", {"contains": {"lower": True}}, examples=7, temperature=1.0)
    pack = opened(of, root, 20)
    base, (tuned,) = evaluation(pack.evaluate_base()), scored(pack, 0)
    told: list[Any] = []
    request = ScoringRequest(rows="eval", adapters={"tuned": pack.adapter(0)}, with_base=True)
    result = qlora.open_scorer(of, root / "cache").score(request, told.append)
    for name, reported in ((BASE, base), ("tuned", tuned)):
        found = result.scores[name]
        assert found.row_places == () and len(found.answers) == 12, "a decision takes all rows"
        assert tuple(found.answers[place] for place in reported.row_places) == reported.answers
        for metric in ("exact_match", "choice", "contains", "answers_ended"):
            own = tuple(found.row_values[metric][place] for place in reported.row_places)
            assert own == reported.row_values[metric]
        answering = [
            (each.done, each.rows, each.token) for each in told if (each.name, each.doing) == (name, "answering")
        ]
        assert answering[:3] == [(0, 12, 0), (0, 12, 0), (0, 12, 1)] and answering[-1] == (12, 12, 0)
        assert [done for done, _, _ in answering] == sorted(done for done, _, _ in answering), "rows end in a batch"
    assert (told[-1].doing, told[-1].done, told[-1].rows) == ("ranking labels", 12, 12)


@pytest.mark.parametrize(
    ("metric", "completion", "labels"),
    [
        ("choice", "{answer}", {label: label for label in LABELS}),
        ("choice", "{answer}<|end|>", {f"{label}<|end|>": label for label in LABELS}),
        ({"choice": {"by": "answer"}}, "{answer}", {}),
        ("exact_match", "{answer}", {}),
    ],
)
def test_the_labels_that_were_ranked_are_told_without_end_tokens(root: Path, metric, completion, labels) -> None:
    of = spec(root, metric)
    of = of.model_copy(update={"data": of.data_spec.model_copy(update={"completion": completion})})
    result = qlora.open_scorer(of, root / "cache").score(ScoringRequest(rows="eval", with_base=True))
    assert result.labels == labels


def test_a_model_whose_positions_end_before_an_answer_may_is_refused(root: Path) -> None:
    tiny_models.save("gpt2", root / "gpt2")
    of = spec(root, "exact_match", max_new_tokens=120)
    of = of.model_copy(update={"model": ModelSpec(source=str(root / "gpt2"))})
    prepared = qlora.prepare(of, root / "cache")
    told = r"12 tokens and an answer of up to 120 \(evaluation.max_new_tokens\).*lower it to 8"
    with pytest.raises(ValueError, match=told):
        qlora.open_pack(of, prepared.payload, root / "cache")


def test_mistakes_are_known_before_anything_starts(root: Path) -> None:
    (problem,) = qlora.check(spec(root, "choice", "exact_mach"))
    assert problem.startswith("evaluation.metrics.1: exact_mach: no such grader; did you mean exact_match")
