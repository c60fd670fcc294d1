"""Sweeps side by side: what differs in their files, and their best trials row by row where the rows are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_events import hosts
from two_sweeps import evaluation, sweep

from sweeps.errors import SweepError
from sweeps.record import samples
from sweeps.record.events import to_line
from sweeps.record.folder import SweepFolder
from sweeps.report import status
from sweeps.report.sweeps_compared import SweepsCompared, compared
from trainables.contract import AnsweredRow


def of(*folders: SweepFolder) -> SweepsCompared:
    return compared([(status.read_status(folder, 200.0), None) for folder in folders])


def change(folder: SweepFolder, made: Callable[[list[str]], list[str]]) -> SweepFolder:
    """Makes other lines of those of the event log."""
    folder.events.write_text("\n".join(made(folder.events.read_text().splitlines())) + "\n")
    return folder


def table(sweeps: SweepsCompared, title: str, price: float | None = None) -> dict[str, list[str]]:
    return dict(dict(sweeps.tables(price))[title])


def test_the_best_trials_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    first = sweep(tmp_path, "lora", 1.0, quantization={"scheme": "none"})
    found = of(first, sweep(tmp_path, "qlora", 1.25, quantization={"scheme": "nf4"}))
    assert found.settings() == table(found, "Their files differ in") == {"quantization.scheme": ["none", "nf4"]}
    values = {"best eval_loss": ["1.0000", "1.2500"], "trial": ["t00", "t00"], "at step": ["9", "9"]}
    assert table(found, "The trials").items() >= values.items()
    spent = {"state": "finished", "trials": "2/2 (2 COMPLETED)", "time": "1 min 40 s", "steps": "18"}
    spent |= {"trained": "0 rows, 1,800 tokens", "held": "0 s of hosts", "memory": "0 MB"}
    assert table(found, "The sweeps") == {name: [value] * 2 for name, value in spent.items()}
    same, settings, better, _seeds = found.lines()
    assert settings == "the same in all: r 8, lr 0.0001"
    assert same == "the same 600 rows to train on, and 40 to evaluate on"
    # Four trials were chosen from: six pairs.
    start = "lora t00 (step 9) is better than qlora t00 (step 9): eval_loss 0.2500 lower, 99.83% confidence interval 0."
    assert better.startswith(start) and better.endswith(" on 40 rows")
    (difference,) = found.as_json()["differences"]
    told = {"sweep": "qlora-1", "against": "lora-1", "apart": True, "rows": 40, "steps": (9, 9)}
    assert difference.items() >= told.items() and difference["difference"] == pytest.approx(0.25)
    assert 0 < difference["low"] < 0.25 < difference["high"]


def test_a_price_tells_what_the_gpu_hours_of_each_cost(tmp_path: Path) -> None:
    cpu, gpu = (sweep(tmp_path, name) for name in ("cpu", "gpu"))
    held = hosts(10.0, device="cuda", gpus_per_host=8)  # for 90 s
    change(gpu, lambda lines: [*lines[:-1], to_line(held), lines[-1]])
    rows = table(of(cpu, gpu), "The sweeps", 2.5)
    assert rows["held"] == ["0 s of hosts", "0.20 GPU-hours"]
    assert rows["cost"] == ["none: the sweep has held no GPU", "0.50 at 2.5 a GPU-hour"]


def test_other_tokens_for_the_same_rows_are_compared_by_bits_per_byte(tmp_path: Path) -> None:
    """The one with twice as many tokens has the lower loss per token, and takes more bits for the same text."""
    few = sweep(tmp_path, "few", 1.0, tokens=10, fingerprint="a")
    found = of(few, sweep(tmp_path, "many", 0.6, tokens=20, fingerprint="b"))
    bits = [evaluation(*each).metrics["eval_bits_per_byte"] for each in ((1.0, 10), (0.6, 20))]
    assert found.objective.metric == "eval_bits_per_byte"
    assert found.lines()[:3] == [
        "the same 40 rows to evaluate on",
        "the same in all: r 8, lr 0.0001",
        "their tokens differ, and so does what eval_loss counts: compared by eval_bits_per_byte",
    ]
    assert "few t00 (step 9) is better than many t00 (step 9): eval_bits_per_byte 0.1154 lower, " in found.lines()[3]
    (difference,) = found.as_json()["differences"]
    assert difference["difference"] == pytest.approx(bits[1] - bits[0]) and difference["low"] > 0
    cut = of(few, sweep(tmp_path, "cut", tokens=20, fingerprint="b", size=20))
    assert "data.max_length cuts their rows at other places" in cut.lines()[3]


def test_scores_of_answers_are_compared_whatever_the_tokens(tmp_path: Path) -> None:
    score: dict[str, Any] = {"objective": {"metric": "exact_match", "mode": "max"}}
    few = sweep(tmp_path, "few", fingerprint="a", right=38, **score)
    found = of(few, sweep(tmp_path, "many", fingerprint="b", tokens=20, size=0, right=10, **score))
    worse = "few t00 (step 9) is better than many t00 (step 9): exact_match 0.7000 higher, "
    test = "better on 28 of 40 rows and worse on 0, p = 7.45e-09 in the exact test, which must be below 0.0017"
    assert found.lines()[2] == worse + test
    assert found.as_json()["differences"][0]["exact"]["p_value"] < 0.001


def answered(storage: Path, name: str, right: int, rows: str = "rows") -> SweepFolder:
    """A sweep whose best trial has answered four rows, so many of them right."""
    sections: dict[str, Any] = {
        "evaluation": {"metrics": ["exact_match"]},
        "search_space": {"adapter.r": {"choice": [8, 16]}},
    }
    folder = sweep(storage, name, fingerprint=rows, rows=rows, right=right, **sections)
    row = AnsweredRow(row=0, prompt="?", expected="yes", answer="yes", is_ended=True, scores={"exact_match": 1.0})
    wrong = {"answer": "no", "scores": {"exact_match": 0.0}}
    told = [row.model_copy(update={"row": place, **({} if place < right else wrong)}) for place in range(4)]
    rows_kept = (folder.kept(f"aaa{name}", "best", 9) / "eval_rows.json").read_bytes()
    folder.keep(f"aaa{name}", "best", 9, {samples.OF_TRIAL: samples.text(told).encode(), "eval_rows.json": rows_kept})
    return folder


def test_scores_beside_the_objective_and_answers_that_differ_are_told(tmp_path: Path) -> None:
    first = answered(tmp_path, "lora", 3)
    found = of(first, answered(tmp_path, "qlora", 1))
    assert table(found, "The trials")["exact_match"] == ["0.0750", "0.0250"]
    line = "answers by exact_match: lora t00 (step 9) is better than qlora t00 (step 9) on 2 of 4 answered rows, and "
    chance = "this may be chance, p = 0.5 in the exact test, which must be below 0.0017"
    assert f"{line}worse on 0: {chance}" in found.lines()
    (told,) = (each["compared"] for each in found.as_json()["answers"])
    assert (told["apart"], told["exact"]["p_value"], told["low"]) == (False, 0.5, None)
    document = found.as_json()
    assert [each["scores"] for each in document["sweeps"]] == [{"exact_match": 0.075}, {"exact_match": 0.025}]
    assert [row["row"] for row in document["answers"][0]["differing"]] == [1, 2]
    elsewhere = of(first, answered(tmp_path, "other", 1, "others"))
    assert elsewhere.as_json()["answers"] == []
    unscored = of(first, sweep(tmp_path, "plain"))
    assert "exact_match" not in table(unscored, "The trials") and unscored.as_json()["answers"] == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rows": "others"}, "they were evaluated on other rows"),
        ({"rows": ""}, "it is not known whether they were evaluated on the same rows"),
        ({"tokens": 20, "size": 0}, "not both have eval_bits_per_byte"),
    ],
)
def test_values_on_other_rows_are_not_compared(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    found = of(sweep(tmp_path, "a", fingerprint="a"), sweep(tmp_path, "b", fingerprint="b", **changed))
    assert found.lines()[-1] == f"a t00 (step 9) cannot be compared with b t00 (step 9): {why}"
    told = found.as_json()["differences"][0]
    assert (told["difference"], told["apart"], why in told["unknown"]) == (None, None, True)


def test_data_and_model_count_by_their_content(tmp_path: Path) -> None:
    def one(name: str, train: str, source: str, weights: str) -> SweepFolder:
        prints = {"model": "m", "model.weights": weights, "data.train": "t"}
        return sweep(tmp_path, name, data={"train": train}, model={"source": source}, prints=prints)

    first = one("a", "here.jsonl", "base", "w1")
    others = one("b", "there.jsonl", "base", "w1"), one("c", "here.jsonl", "base", "w2"), one("d", "", "other", "w2")
    assert [of(first, each).settings() for each in others] == [
        {},
        {"model.source": ["base (m w1)", "base (m w2)"]},
        {"model.source": ["base", "other"]},
    ]
    first = sweep(tmp_path, "e", search_space={"adapter.r": {"choice": [8, 16]}}, promotion={"model": "m"})
    found = of(first, sweep(tmp_path, "f", search_space={}, notify={"command": ["true"]}))
    # Each field of the space is one value, and what decides no number is left out.
    assert table(found, "Their files differ in")["search_space.adapter.r"] == ["{choice: [8, 16]}", "-"]
    assert {key.partition(".")[0] for key in found.settings()} == {"search_space"}


def test_a_sweep_without_a_report_is_refused(tmp_path: Path) -> None:
    begun = change(sweep(tmp_path, "begun"), lambda lines: lines[:3])
    read = status.read_status(begun, 200.0)
    with pytest.raises(SweepError, match="begun: t00 has not reported yet"):
        compared([(read, read.record.trials["aaabegun"]), (read, None)])
    with pytest.raises(SweepError, match="begun: no trial has reported yet"):
        of(sweep(tmp_path, "done"), change(begun, lambda lines: lines[:2]))


def test_sweeps_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first, second, copy = sweep(tmp_path, "a"), sweep(tmp_path, "a-2"), sweep(tmp_path / "copies", "a")
    change(second, lambda lines: [line.replace('\\"name\\": \\"a-2\\"', '\\"name\\": \\"a\\"') for line in lines])
    assert [side.name for side in of(first, second).sides] == ["a", "a-2"]
    assert [side.name for side in of(first, copy).sides] == [str(first.path), str(copy.path)]


def test_a_sweep_of_other_rows_changes_nothing_between_the_others(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, "a", 1.0), sweep(tmp_path, "b", 1.25)
    other = sweep(tmp_path, "c", fingerprint="c", rows="others")
    two, three = of(first, second).separation, of(first, second, other).separation
    assert (three.trials[0], three.confidence) == (two.trials[0], two.confidence)
    assert three.trials[1].unknown == "they were evaluated on other rows"
    (second.kept("aaab", "best", 9) / "eval_rows.json").unlink()
    assert "the rows of b t00 at step 9 are missing" in of(first, second).lines()[2]


def test_without_data_nothing_is_said_of_rows_and_objectives_that_differ_give_way_to_the_loss(tmp_path: Path) -> None:
    def without(lines: list[str]) -> list[str]:
        return [line.replace('"train_rows":600', '"train_rows":0') for line in lines]

    first, second = (change(sweep(tmp_path, name), without) for name in "ab")
    assert of(first, second).lines()[0].startswith("the same in all: ")
    found = of(first, sweep(tmp_path, "c", objective={"metric": "eval_row_loss", "mode": "min"}))
    assert found.objective.metric == "eval_loss"
    assert "their objectives differ: the trials are compared by eval_loss" in found.lines()
    rows = table(found, "The trials")
    assert (rows["best eval_loss"], rows["eval_row_loss"]) == (["1.2500"] * 2,) * 2
