"""Sweeps side by side: what differs in their files, and their best trials row by row where the rows are the same."""

from __future__ import annotations

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

NF4: dict[str, Any] = {"quantization": {"scheme": "nf4", "double_quant": True}}
PLAIN: dict[str, Any] = {"quantization": {"scheme": "none", "double_quant": True}}


def of(*folders: SweepFolder) -> SweepsCompared:
    return compared([(status.read(folder, 200.0), None) for folder in folders])


def table(sweeps: SweepsCompared, title: str) -> dict[str, list[str]]:
    return dict(dict(sweeps.tables())[title])


def test_the_best_trials_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    found = of(sweep(tmp_path, "lora", 1.0, **PLAIN), sweep(tmp_path, "qlora", 1.25, **NF4))
    assert found.settings() == {"quantization.scheme": ["none", "nf4"]}
    assert table(found, "Their files differ in") == {"quantization.scheme": ["none", "nf4"]}
    trials = table(found, "The trials")
    assert (trials["trial"], trials["eval_loss"], trials["at step"]) == (
        ["t00", "t00"],
        ["1.0000", "1.2500"],
        ["9", "9"],
    )
    assert table(found, "The sweeps") == {
        "state": ["finished", "finished"],
        "trials": ["2", "2"],
        "steps": ["18", "18"],
        "tokens": ["1,800", "1,800"],
        "time": ["1 min 40 s", "1 min 40 s"],
        "host time": ["0 s", "0 s"],
    }
    same, settings, better, _seeds = found.lines()
    assert settings == "the same in all: r 8, lr 0.0001"
    assert same == "the same 600 rows to train on, and 40 to evaluate on"
    # Four trials were chosen from: six pairs.
    start = "qlora t00 (step 9) is worse than lora t00 (step 9): eval_loss 0.2500 higher, 99.83% confidence interval 0."
    assert better.startswith(start) and better.endswith(" on 40 rows")
    (difference,) = found.as_json()["differences"]
    assert (difference["sweep"], difference["against"], difference["apart"]) == ("qlora-1", "lora-1", True)
    assert difference["difference"] == pytest.approx(0.25)
    assert 0 < difference["low"] < 0.25 < difference["high"]
    assert (difference["rows"], difference["steps"]) == (40, (9, 9))


def test_a_price_tells_what_the_gpu_hours_of_each_cost(tmp_path: Path) -> None:
    cpu, gpu = (sweep(tmp_path, name) for name in ("cpu", "gpu"))
    held = hosts(10.0).model_copy(update={"device": "cuda", "gpus_per_host": 8})  # 90 s of 8 GPUs
    *lines, end = gpu.events.read_text().splitlines(keepends=True)
    gpu.events.write_text("".join((*lines, f"{to_line(held)}\n", end)))
    rows = dict(dict(of(cpu, gpu).tables(2.5))["The sweeps"])
    assert rows["GPU-hours"] == ["0.00", "0.20"]
    assert rows["cost at 2.5 a GPU-hour"] == ["none: it held no GPU", "0.50"]


def test_other_tokens_for_the_same_rows_are_compared_by_bits_per_byte(tmp_path: Path) -> None:
    """The one with twice as many tokens has the lower loss per token, and takes more bits for the same text."""
    few = sweep(tmp_path, "few", 1.0, tokens=10, fingerprint="a")
    many = sweep(tmp_path, "many", 0.6, tokens=20, fingerprint="b")
    found = of(few, many)
    bits = [evaluation(*each).metrics["eval_bits_per_byte"] for each in ((1.0, 10), (0.6, 20))]
    assert found.objective.metric == "eval_bits_per_byte"
    assert found.lines()[:3] == [
        "the same 40 rows to evaluate on",
        "the same in all: r 8, lr 0.0001",
        "their tokens differ, and so does what eval_loss counts: compared by eval_bits_per_byte",
    ]
    assert "many t00 (step 9) is worse than few t00 (step 9): eval_bits_per_byte 0.1154 higher, " in found.lines()[3]
    (difference,) = found.as_json()["differences"]
    assert difference["difference"] == pytest.approx(bits[1] - bits[0])
    assert difference["low"] > 0


def test_scores_of_answers_are_compared_whatever_the_tokens(tmp_path: Path) -> None:
    score: dict[str, Any] = {"objective": {"metric": "exact_match", "mode": "max"}}
    few = sweep(tmp_path, "few", fingerprint="a", right=38, **score)
    found = of(few, sweep(tmp_path, "many", fingerprint="b", tokens=20, size=0, right=10, **score))
    worse = "many t00 (step 9) is worse than few t00 (step 9): exact_match 0.7000 lower, 99.83% confidence interval 0."
    assert found.lines()[2].startswith(worse)
    assert found.as_json()["differences"][0]["exact"]["p_value"] < 0.001


def test_scores_beside_the_objective_and_answers_that_differ_are_told(tmp_path: Path) -> None:
    def one(name: str, right: int, rows: str = "rows") -> SweepFolder:
        sections: dict[str, Any] = {
            "evaluation": {"metrics": ["exact_match"]},
            "search_space": {"adapter.r": {"choice": [8, 16]}},
        }
        folder = sweep(tmp_path, name, fingerprint=rows, rows=rows, right=right, **sections)
        told = [
            AnsweredRow(
                row=row,
                prompt="?",
                expected="yes",
                answer="yes" if row < right else "no",
                is_ended=True,
                scores={"exact_match": float(row < right)},
            )
            for row in range(4)
        ]
        folder.keep(f"aaa{name}", "best", 9, {samples.OF_TRIAL: samples.text(told).encode()})
        return folder

    first = one("lora", 3)
    found = of(first, one("qlora", 1))
    assert table(found, "The trials")["exact_match"] == ["0.0750", "0.0250"]
    line = "answers by exact_match: lora t00 (step 9) is better than qlora t00 (step 9) on 2 of 4 answered rows, and "
    assert f"{line}worse on 0" in found.lines()
    document = found.as_json()
    assert [each["scores"] for each in document["sweeps"]] == [{"exact_match": 0.075}, {"exact_match": 0.025}]
    assert [row["row"] for row in document["answers"][0]["differing"]] == [1, 2]
    elsewhere = of(first, one("other", 1, "others"))
    assert elsewhere.as_json()["answers"] == [] and not any("answers by" in line for line in elsewhere.lines())
    unscored = of(first, sweep(tmp_path, "plain"))
    assert "exact_match" not in table(unscored, "The trials")
    assert unscored.as_json()["answers"] == []


def test_without_bits_per_byte_other_tokens_are_not_compared(tmp_path: Path) -> None:
    few = sweep(tmp_path, "few", fingerprint="a", size=0)
    found = of(few, sweep(tmp_path, "many", tokens=20, fingerprint="b"))
    assert found.lines()[3:] == [
        "many t00 (step 9) cannot be compared with few t00 (step 9): not both have eval_bits_per_byte"
    ]
    assert found.as_json()["differences"][0]["difference"] is None


def test_rows_that_are_cut_at_other_places_have_no_interval(tmp_path: Path) -> None:
    few = sweep(tmp_path, "few", fingerprint="a")
    found = of(few, sweep(tmp_path, "many", tokens=20, fingerprint="b", size=20))
    assert "data.max_length cuts their rows at other places" in found.lines()[3]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("others", "they were evaluated on other rows"),
        ("", "it is not known whether they were evaluated on the same rows"),
    ],
)
def test_values_on_other_rows_are_not_compared(tmp_path: Path, rows: str, why: str) -> None:
    found = of(sweep(tmp_path, "a", fingerprint="a"), sweep(tmp_path, "b", fingerprint="b", rows=rows))
    assert found.lines()[1:] == [f"b t00 (step 9) cannot be compared with a t00 (step 9): {why}"]
    told = found.as_json()["differences"][0]
    assert (told["difference"], told["apart"], why in told["unknown"]) == (None, None, True)


def test_sweeps_of_earlier_versions_with_the_same_tokens_are_compared(tmp_path: Path) -> None:
    found = of(sweep(tmp_path, "a", rows=""), sweep(tmp_path, "b", rows=""))
    assert "cannot be told apart from" in found.lines()[2]


def test_data_and_model_count_by_their_content(tmp_path: Path) -> None:
    def one(name: str, train: str, source: str, weights: str) -> SweepFolder:
        prints = {"model": "m", "model.weights": weights, "data.train": "t"}
        return sweep(tmp_path, name, data={"train": train}, model={"source": source}, prints=prints)

    first = one("a", "here.jsonl", "base", "w1")
    assert of(first, one("b", "there.jsonl", "base", "w1")).settings() == {}
    assert of(first, one("c", "here.jsonl", "base", "w2")).settings() == {
        "model.source": ["base (m w1)", "base (m w2)"]
    }
    assert of(first, one("d", "here.jsonl", "other", "w2")).settings() == {"model.source": ["base", "other"]}


def test_each_field_of_the_space_is_one_value_and_what_is_missing_a_dash(tmp_path: Path) -> None:
    space = {"adapter.r": {"choice": [8, 16]}}
    found = of(sweep(tmp_path, "a", search_space=space), sweep(tmp_path, "b", search_space={}))
    assert table(found, "Their files differ in")["search_space.adapter.r"] == ["{choice: [8, 16]}", "-"]


def test_a_sweep_without_a_report_is_refused(tmp_path: Path) -> None:
    begun = sweep(tmp_path, "begun")
    begun.events.write_text("".join(begun.events.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(SweepError, match="begun: no trial has reported yet"):
        of(sweep(tmp_path, "done"), begun)
    running = sweep(tmp_path, "running")
    running.events.write_text("".join(running.events.read_text().splitlines(keepends=True)[:3]))
    read = status.read(running, 200.0)
    with pytest.raises(SweepError, match="running: t00 has not reported yet"):
        compared([(read, read.record.trials["aaarunning"]), (read, None)])


def test_sweeps_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first, second, copy = sweep(tmp_path, "a"), sweep(tmp_path, "a-2"), sweep(tmp_path / "copies", "a")
    second.events.write_text(second.events.read_text().replace('\\"name\\": \\"a-2\\"', '\\"name\\": \\"a\\"'))
    assert [side.name for side in of(first, second).sides] == ["a", "a-2"]
    assert [side.name for side in of(first, copy).sides] == [str(first.path), str(copy.path)]


def test_a_sweep_of_other_rows_changes_nothing_between_the_others(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, "a", 1.0), sweep(tmp_path, "b", 1.25)
    other = sweep(tmp_path, "c", fingerprint="c", rows="others")
    two, three = of(first, second).separation, of(first, second, other).separation
    assert (three.trials[0], three.confidence) == (two.trials[0], two.confidence)
    assert three.trials[1].unknown == "they were evaluated on other rows"


def test_what_decides_no_number_and_a_default_that_an_older_file_lacks_are_no_difference(tmp_path: Path) -> None:
    older = sweep(tmp_path, "a", promotion={"model": "m"})
    newer = sweep(tmp_path, "b", notify={"command": ["true"]}, seed=0, quantization={"double_quant": True})
    assert of(older, newer).settings() == {}
    unread = sweep(tmp_path, "c", key_of_a_later_version=1)
    assert of(older, unread).settings() == {"key_of_a_later_version": [None, 1]}


def test_rows_that_are_missing_are_those_of_a_sweep(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, "a"), sweep(tmp_path, "b")
    (second.kept("aaab", "best", 9) / "eval_rows.json").unlink()
    assert "the rows of b t00 at step 9 are missing" in of(first, second).lines()[2]


def test_without_data_nothing_is_said_of_rows(tmp_path: Path) -> None:
    both = [sweep(tmp_path, name) for name in "ab"]
    for each in both:
        each.events.write_text(each.events.read_text().replace('"train_rows":600', '"train_rows":0'))
    assert of(*both).lines()[0].startswith("the same in all: ")


def test_objectives_that_differ_give_way_to_the_loss(tmp_path: Path) -> None:
    score: dict[str, Any] = {"objective": {"metric": "eval_row_loss", "mode": "min"}}
    found = of(sweep(tmp_path, "a"), sweep(tmp_path, "b", **score))
    assert found.objective.metric == "eval_loss"
    assert found.lines()[2] == "their objectives differ: the trials are compared by eval_loss"
    rows = table(found, "The trials")
    assert (rows["eval_loss"], rows["eval_row_loss"]) == (["1.2500"] * 2,) * 2
