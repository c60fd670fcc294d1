"""Rows held out are drawn by whole groups, and groups go with the rows that are evaluated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import data_rows
import numpy as np
import pytest
import tiny_models
from data_rows import write
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.data import dataset, preview, sources
from trainables.errors import DataError
from trainables.specs import DataSpec

spec = partial(data_rows.spec, eval_examples=10)


def rows(count: int, of_group: int = 1, start: int = 0) -> list[dict[str, Any]]:
    return [{**row, "doc": f"d{n // of_group + start}"} for n, row in enumerate(data_rows.pairs(count, start))]


def answers(split: dataset.Split) -> list[str]:
    return [text.removesuffix("<|end|>") for text in data_rows.answers(split)]


def held_out(data: DataSpec, of: Sequence[Mapping[str, object]]) -> list[bool]:
    return [part == "eval" for part in sources.drawn(data, of)]


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
    first, again, more = (held_out(data, rows(count)) for count in (500, 500, 510))
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
    held = held_out(stratified, labelled)
    shares = Counter(row["label"] for row, is_held in zip(labelled, held, strict=True) if is_held)
    assert shares == {"a": 20, "b": 8, "c": 2}
    one_label = [{**row, "label": "a"} for row in labelled]
    assert held_out(stratified, one_label) == held_out(data, labelled), "drawn as without labels"


@st.composite
def files(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows in any order, some of them several times, each with a group and a label."""
    copies = draw(st.lists(st.integers(1, 5), min_size=20, max_size=60))
    places = draw(st.permutations([n for n, times in enumerate(copies) for _ in range(times)]))
    documents = draw(st.integers(10, 60))
    return [{**data_rows.pairs(1, n)[0], "doc": n % documents, "label": "ab"[n % 3 == 0]} for n in places]


def sides(of: Sequence[Mapping[str, object]], parts: Sequence[str], column: str) -> set[int]:
    """How many parts the rows with one value of a column are in."""
    found: dict[object, set[str]] = {}
    for row, part in zip(of, parts, strict=True):
        found.setdefault(row[column], set()).add(part)
    return {len(each) for each in found.values()}


@given(files(), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["drawn", "last"]))
def test_copies_are_on_one_side_and_the_numbers_are_the_wanted_ones_where_rows_allow(
    of: list[dict[str, Any]], held: int, test: int, hold_out: str
) -> None:
    data = spec("a.jsonl", eval_examples=held, test_examples=test, hold_out=hold_out, copies="together")
    times = Counter(row["question"] for row in of)
    singles = sum(count == 1 for count in times.values())
    assume(singles >= held + test)
    parts = sources.drawn(data, of)
    assert sides(of, parts, "question") == {1}
    assert Counter(parts) == {"eval": held, "test": test, "train": len(of) - held - test}
    assert sources.drawn(data, of) == parts


@given(files(), st.sampled_from(["drawn", "last"]), st.booleans())
def test_groups_are_whole_and_a_row_that_many_share_does_not_join_them(
    of: list[dict[str, Any]], hold_out: str, is_stratified: bool
) -> None:
    data = spec(
        "a.jsonl", eval_examples=40, test_examples=20, hold_out=hold_out, copies="apart", group_by="doc",
        stratify_by="label" if is_stratified and hold_out == "drawn" else None,
    )  # fmt: skip
    of = [*of, *({**of[0], "doc": n} for n in {row["doc"] for row in of})]
    try:
        parts = sources.drawn(data, of)
    except DataError:
        assume(False)
    assert sides(of, parts, "doc") == {1}
    assert set(parts) == {"train", "eval", "test"}
    assert sources.drawn(data.model_copy(update={"copies": "together"}), of) == parts


def test_equal_rows_of_groups_on_both_sides_are_counted_with_a_way_out(tmp_path: Path) -> None:
    of = rows(60, of_group=3)
    of = [{**row, **data_rows.pairs(1)[0]} if n % 3 == 0 else row for n, row in enumerate(of)]
    data = spec(write(tmp_path / "a.jsonl", of), hold_out="drawn", group_by="doc", copies="together")
    (line,) = [line for line in preview.preview(data).warnings if "also in data.train" in line]
    assert "rows that are also in data.train, 4 of 12, " in line
    assert line.endswith("; give equal rows one group, or take them out")


@given(files(), st.integers(1, 30))
def test_a_file_without_copies_is_drawn_as_ever_whatever_is_drawn_for_promotion(
    of: list[dict[str, Any]], held: int
) -> None:
    of = list({row["question"]: row for row in of}.values())
    assume(held < len(of) - 5)
    data = spec("a.jsonl", eval_examples=held, hold_out="drawn")
    before = held_out(data, of)
    assert held_out(data.model_copy(update={"copies": "together"}), of) == before
    assert held_out(data.model_copy(update={"copies": "together", "test_examples": 3}), of) == before


def test_chats_are_equal_whatever_the_order_of_their_keys_and_what_follows_their_answer() -> None:
    def chats(*order: str) -> list[dict[str, Any]]:
        told = [data_rows.chat(f"What is {n}?", f"It is {n}.") for n in range(30)]
        return [{"chat": [{key: message[key] for key in order} for message in each]} for each in told]

    of = [*chats("role", "content"), *chats("content", "role")]
    of[0]["chat"].append({"role": "user", "content": "Thanks."})
    data = spec("a.jsonl", messages="chat", hold_out="drawn", test_examples=10, copies="together")
    parts = sources.drawn(data, of)
    assert parts[:30] == parts[30:]
    assert Counter(parts) == {"eval": 10, "test": 10, "train": 40}


def test_rows_are_drawn_as_they_were_before_there_were_test_rows() -> None:
    """A saved sweep has neither key, and must find the rows that it began with."""
    labelled = [{**row, "label": "abc"[n % 3]} for n, row in enumerate(rows(90, of_group=2))]
    data = spec("a.jsonl", hold_out="drawn", eval_examples=6)
    found = [held_out(each, labelled) for each in (data, data.model_copy(update={"group_by": "doc"}))]
    assert [[n for n, is_held in enumerate(of) if is_held] for of in found] == [
        [25, 35, 40, 52, 56, 75],
        [50, 51, 70, 71, 80, 81],
    ]
    doubled = [*labelled, *labelled]
    assert sides(doubled, sources.drawn(data, doubled), "question") == {1, 2}, "copies were drawn one by one"


@pytest.mark.parametrize(("count", "drawn"), [(1209, 0), (1210, 200)])
def test_auto_draws_200_rows_where_1200_are_beside_those_held_out(tmp_path: Path, count: int, drawn: int) -> None:
    data = spec(write(tmp_path / "a.jsonl", rows(count)), hold_out="drawn", test_examples="auto", text="{question}")
    found = preview.preview(data)
    assert (found.train_rows, found.eval_rows, found.test_rows) == (count - 10 - drawn, 10, drawn)
    summary = dataset.prepare(data, tiny_models.tokenizer(), tmp_path).summary
    assert (summary.train_rows, summary.eval_rows, summary.test_rows) == (count - 10 - drawn, 10, drawn)


def test_test_rows_are_in_no_other_part_and_are_drawn_beside_a_file_to_evaluate_on(tmp_path: Path) -> None:
    files = {"train": write(tmp_path / "a.jsonl", rows(40)), "eval": write(tmp_path / "b.jsonl", rows(12, 1, 100))}
    for data in (
        spec(**files, hold_out="drawn", test_examples=15),
        spec(files["train"], hold_out="drawn", test_examples=15),
    ):
        splits, tokenizer = prepared(data, tmp_path), tiny_models.tokenizer()
        test = answers(dataset.whole(data, "test", tokenizer))
        assert (len(test), len(splits.eval)) == (15, 10)
        held = [] if data.eval else answers(splits.eval)
        assert sorted(test + answers(splits.train) + held) == sorted(f"It is {n}." for n in range(40))


def test_a_test_file_and_test_rows_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"test_examples: 20 goes without data\.test: keep one of the two"):
        spec("a.jsonl", test="b.jsonl", test_examples=20)


@pytest.mark.parametrize(
    ("of", "fields", "says"),
    [
        (rows(30), {"eval_examples": 10, "test_examples": 20},
         "data.test_examples: 30 rows are held out of data.train, which has 30: lower data.test_examples=20 (null "
         "draws none) or data.eval_examples=10, or give data.test or data.eval"),
        (rows(2) * 50, {"eval_examples": 10},
         "data.eval_examples: sets of equal rows with more than 10 rows have 100 of all 100 rows, and could not be "
         "held out: raise it, to 50 for all of them, or give data.eval"),
        (rows(90, of_group=3), {"eval_examples": 10, "test_examples": 2, "group_by": "doc"},
         "data.test_examples: groups of data.group_by doc with more than 2 rows have 90 of all 90 rows, and could not "
         "be held out: raise it, to 3 for all of them, or give data.test; null draws none"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_drawn_are_told_with_a_way_out(
    of: list[dict[str, Any]], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError) as caught:
        sources.drawn(spec("a.jsonl", hold_out="drawn", copies="together", **fields), of)
    assert str(caught.value) == says


def test_labels_are_of_rows_that_are_drawn(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(30))
    (problem,) = sources.check_data(spec(train, hold_out="drawn", stratify_by="dox"))
    says = f"dox is not a column of {train}; columns: question, answer, doc; did you mean doc?"
    assert problem == f"data.stratify_by: {says}"
    for said in ({"hold_out": "last"}, {"hold_out": "drawn", "eval": train}):
        with pytest.raises(ValidationError, match="stratify_by says how rows of train are drawn"):
            spec(train, stratify_by="doc", **said)


@pytest.mark.parametrize("hold_out", ["drawn", "last"])
def test_a_group_is_never_on_both_sides(tmp_path: Path, hold_out: str) -> None:
    mixed = sorted(rows(60, of_group=4), key=lambda row: str(row["question"])[::-1])
    data = spec(write(tmp_path / "a.jsonl", mixed), group_by="doc", hold_out=hold_out)
    held = held_out(data, mixed)
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
    held = {row["doc"] for row, is_held in zip(mixed, held_out(data, mixed), strict=True) if is_held}
    # Of some 11 groups 4.4 are long, give or take 1.6: 2 is one in 14, and the draw is the same each time.
    assert 2 <= sum(doc.startswith("long") for doc in held) <= 7
    assert 600 <= sum(sizes[doc] for doc in held) < 720
    (problem,) = preview.preview(data.model_copy(update={"eval_examples": 100})).problems
    assert problem.startswith(
        "data.eval_examples: groups of data.group_by doc with more than 100 rows have 4800 of all 5400 rows"
    )
    assert "raise it, to 120 for all of them" in problem


def test_groups_on_both_sides_of_given_files_are_told_of(tmp_path: Path) -> None:
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


def test_a_column_of_groups_that_is_not_there_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", rows(30))
    held = write(tmp_path / "b.jsonl", [{"question": f"q{n}", "answer": "a", "dok": n} for n in range(12)])
    (problem,) = sources.check_data(spec(train, eval=held, group_by="doc"))
    assert problem == f"data.group_by: doc is not a column of {held}; columns: question, answer, dok; did you mean dok?"
    rest = rows(30)
    rest[7]["doc"], rest[25]["doc"] = " ", None
    data = spec(write(tmp_path / "c.jsonl", rest), group_by="doc")
    says = f"data.train: {data.train}, line 8: column 'doc' is empty: name the row's group"
    (problem,) = sources.check_data(data)
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
