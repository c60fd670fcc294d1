"""Rows held out are drawn by whole groups, and groups go with the rows that are evaluated on."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import data_rows
import numpy as np
import pytest
import tiny_models
from data_rows import write
from pydantic import ValidationError

from trainables.data import dataset, preview, sources
from trainables.errors import DataError
from trainables.specs import DataSpec

spec = partial(data_rows.spec, eval_examples=10)


def rows(count: int, of_group: int = 1, start: int = 0) -> list[dict[str, Any]]:
    return [{**row, "doc": f"d{n // of_group + start}"} for n, row in enumerate(data_rows.pairs(count, start))]


def answers(split: dataset.Split) -> list[str]:
    return [text.removesuffix("<|end|>") for text in data_rows.answers(split)]


def prepared(data: DataSpec, cache: Path) -> dataset.Splits:
    return dataset.load(dataset.prepare(data, tiny_models.tokenizer(), cache).payload)


def test_rows_held_out_are_drawn_and_keep_the_order_of_the_file(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(300))
    drawn = prepared(spec(train, hold_out="drawn", eval_examples=60), tmp_path)
    last = prepared(spec(train, eval_examples=60), tmp_path)
    numbers = [int(answer[6:-1]) for answer in answers(drawn.eval)]
    assert answers(last.eval) == [f"It is {n}." for n in range(240, 300)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 60
    assert sorted(answers(drawn.train) + answers(drawn.eval)) == sorted(f"It is {n}." for n in range(300))
    # Of 60 rows drawn from five parts of the file, 12 fall into each, give or take 3.1: 3 is one in 500.
    assert min(np.bincount(np.array(numbers) // 60, minlength=5)) >= 3


def test_the_draw_is_the_same_for_the_same_rows_and_changes_little_when_rows_are_added() -> None:
    data = spec("a.jsonl", hold_out="drawn", eval_examples=50)
    first, again, more = (sources.held_out(data, rows(count)) for count in (500, 500, 510))
    assert first == again
    assert sum(more) == 50
    # A row that is added takes a place with the chance 50 / 510: of ten rows about one does.
    assert sum(one and not other for one, other in zip(first, more, strict=False)) <= 5


@pytest.mark.parametrize("of_group", [1, 2])
def test_each_label_has_its_share_of_the_rows_held_out(of_group: int) -> None:
    labels = "a" * 200 + "b" * 80 + "c" * 20
    labelled = [{**row, "label": label} for row, label in zip(rows(300, of_group), labels, strict=True)]
    data = spec("a.jsonl", hold_out="drawn", eval_examples=30, group_by="doc")
    stratified = data.model_copy(update={"stratify_by": "label"})
    held = sources.held_out(stratified, labelled)
    shares = Counter(row["label"] for row, is_held in zip(labelled, held, strict=True) if is_held)
    assert shares == {"a": 20, "b": 8, "c": 2}
    one_label = [{**row, "label": "a"} for row in labelled]
    assert sources.held_out(stratified, one_label) == sources.held_out(data, labelled), "drawn as without labels"


def test_labels_are_of_rows_that_are_drawn(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(30))
    (problem,) = sources.check(spec(train, hold_out="drawn", stratify_by="dox"))
    says = f"dox is not a column of {train}; columns: question, answer, doc; did you mean doc?"
    assert problem == f"data.stratify_by: {says}"
    for said in ({"hold_out": "last"}, {"hold_out": "drawn", "eval": train}):
        with pytest.raises(ValidationError, match="stratify_by says how rows of train are drawn"):
            spec(train, stratify_by="doc", **said)


def test_more_rows_to_evaluate_on_than_to_train_on_are_a_warning(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(60))
    assert preview.preview(spec(train, eval_examples=30)).warnings == ()
    assert preview.preview(spec(train, eval_examples=31)).warnings == (
        "data.eval_examples: 31 of the 60 rows of data.train are held out, and only 29 are trained on: lower "
        "data.eval_examples, or give data.eval",
    )


@pytest.mark.parametrize("hold_out", ["drawn", "last"])
def test_a_group_is_never_on_both_sides(tmp_path: Path, hold_out: str) -> None:
    mixed = sorted(rows(60, of_group=4), key=lambda row: str(row["question"])[::-1])
    data = spec(write(tmp_path / "a.jsonl", mixed), group_by="doc", hold_out=hold_out)
    held = sources.held_out(data, mixed)
    groups = [row["doc"] for row, is_held in zip(mixed, held, strict=True) if is_held]
    others = {row["doc"] for row, is_held in zip(mixed, held, strict=True) if not is_held}
    assert not others & set(groups)
    assert len(set(groups)) == 3, "10 rows are two groups of 4 and a part of a third one, which comes whole"
    splits = prepared(data, tmp_path)
    assert len(splits.eval) == sum(held) == 12
    assert [groups.index(doc) for doc in groups] == [splits.eval.groups.index(group) for group in splits.eval.groups]
    assert splits.train.groups == ()
    found = preview.preview(data)
    assert (found.train_rows, found.eval_rows, found.problems) == (48, 12, ())


def test_large_groups_are_held_out_as_often_as_small_ones(tmp_path: Path) -> None:
    """Else the rows that are evaluated on are of another kind: 40 long documents and 60 short ones."""
    sizes = {f"long{n}": 120 for n in range(40)} | {f"short{n}": 10 for n in range(60)}
    mixed = [{"doc": doc, "question": "q", "answer": "a"} for doc, size in sizes.items() for _ in range(size)]
    data = spec(write(tmp_path / "a.jsonl", mixed), group_by="doc", hold_out="drawn", eval_examples=600)
    held = {row["doc"] for row, is_held in zip(mixed, sources.held_out(data, mixed), strict=True) if is_held}
    # Of some 11 groups 4.4 are long, give or take 1.6: 2 is one in 14, and the draw is the same each time.
    assert 2 <= sum(doc.startswith("long") for doc in held) <= 7
    assert 600 <= sum(sizes[doc] for doc in held) < 720
    (problem,) = preview.preview(data.model_copy(update={"eval_examples": 100})).problems
    assert problem.startswith(
        "data.eval_examples: groups of data.group_by doc with more than 100 rows have 4800 of all 5400 rows"
    )
    assert "raise it, to 120 for all groups" in problem


def test_groups_on_both_sides_of_given_files_and_few_of_them_are_told_of(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(60, of_group=2))
    others = rows(28, 2, start=100)
    others[3]["doc"], others[9]["doc"] = "d4", "d4"
    given = {"eval": write(tmp_path / "b.jsonl", others), "test": write(tmp_path / "c.jsonl", rows(30, 2, 200))}
    data = spec(train, group_by="doc", eval_examples=None, **given)
    (line,) = preview.preview(data).warnings
    assert line.startswith(
        "data.eval: rows of which data.train has the group (data.group_by: doc), 2 of 28, the first on line 4: "
    )
    assert dataset.prepare(data, tiny_models.tokenizer(), tmp_path).summary.warnings == (line,)
    assert preview.preview(data.model_copy(update={"group_by": None})).warnings == ()
    write(given["eval"], rows(40, 10, start=100))
    (line,) = preview.preview(data).warnings
    assert line.startswith("data.eval: 4 groups can hardly tell adapters apart: give 30 or more")


def test_a_column_of_groups_that_is_not_there_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(30))
    held = write(tmp_path / "b.jsonl", [{"question": f"q{n}", "answer": "a", "dok": n} for n in range(12)])
    (problem,) = sources.check(spec(train, eval=held, group_by="doc"))
    assert problem == f"data.group_by: doc is not a column of {held}; columns: question, answer, dok; did you mean dok?"
    rest = rows(30)
    rest[7]["doc"], rest[25]["doc"] = " ", None
    data = spec(write(tmp_path / "c.jsonl", rest), group_by="doc")
    says = f"data.train: {data.train}, line 8: column 'doc' is empty: name the row's group"
    (problem,) = sources.check(data)
    assert problem.startswith(says)
    with pytest.raises(DataError, match=says):
        prepared(data, tmp_path)


def test_groups_and_a_draw_are_another_split_and_a_sweep_without_them_keeps_its_name(tmp_path: Path) -> None:
    train, drawn = write(tmp_path / "a.jsonl", rows(30)), {"hold_out": "drawn"}
    given: tuple[dict[str, Any], ...] = (
        {},
        {"eval": train, **drawn},
        drawn,
        {"group_by": "doc"},
        {"stratify_by": "doc", **drawn},
    )
    forms = [sources.fingerprint(spec(train, **said))["form"] for said in given]
    assert forms[0] == forms[1] == "7eb9ec6914f4313c"
    assert len(set(forms)) == 4


def test_a_file_sorted_by_class_is_told_of_where_it_is_cut_and_not_where_it_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\n" + "".join(f"message {n},{'abc'[n // 100]}\n" for n in range(300)))
    last = spec(str(path), eval_examples=50, completion=" {answer}")
    (line,) = preview.preview(last).warnings
    assert line.startswith(
        "data.train, its rows held out: rows unlike those of data.train, far beyond chance: other completions ('c': "
        "100% of them, 20% in data.train): "
    )
    assert line.endswith("or take data.hold_out: drawn")
    assert dataset.prepare(last, tiny_models.tokenizer(), tmp_path).summary.warnings == (line,)
    drawn = last.model_copy(update={"hold_out": "drawn"})
    assert preview.preview(drawn).warnings == ()
    assert {answer.strip() for answer in answers(prepared(drawn, tmp_path).eval)} == {"a", "b", "c"}
    # A file of its own, of which the first rows are of one class.
    others = [{"question": f"other {n}", "answer": "abc"[n // 100]} for n in range(300)]
    (line,) = preview.preview(last.model_copy(update={"eval": str(write(tmp_path / "b.jsonl", others))})).warnings
    assert line.startswith("data.eval: rows unlike those of data.train, far beyond chance: other completions ('a': ")
