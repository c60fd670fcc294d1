from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import data_rows
import pytest
from data_rows import write
from datasets import Dataset, DatasetDict

from trainables.data import sources
from trainables.errors import DataError
from trainables.specs import DataSpec

PAIRS = [{"question": f"What is {n}, roughly?", "answer": f'It is\n{n}; "{n}" é\u2028'} for n in range(30)]


spec = partial(data_rows.spec, eval_examples=5)


def read(data: DataSpec, split: sources.SplitName) -> Iterator[Mapping[str, object]]:
    return (row for _, row, _ in sources.placed(data, split))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", PAIRS)


# Kinds of source


def test_suffix_tells_files_from_hub_ids() -> None:
    files = ("data/train.jsonl", "/data/train.JSON", "owner/name.csv", "x.parquet")
    ids = ("openai/gsm8k", "openai/gsm8k:main", "owner/name-v1.5_x")
    assert [source for source in (*files, *ids) if sources.is_local(source)] == list(files)


@pytest.mark.parametrize(
    "source",
    ["data/train.txt", "./train", "/data/train", "../x", "a.jsonl.gz", "~/x", "gsm8k", "a/b/c", "a/b:", "a b/c"],
)
def test_source_that_is_neither_is_refused_with_what_is_accepted(source: str) -> None:
    with pytest.raises(DataError, match=r"\.jsonl, \.json, \.csv, \.parquet; a hub data set is owner/name"):
        sources.is_local(source)


def test_a_folder_is_the_rows_of_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "part-2.jsonl", PAIRS[10:])
    write(folder / "part-1.jsonl", PAIRS[:10])
    (folder / ".hidden.csv").write_text("x")
    (folder / "README.md").write_text("x")
    data = spec(folder)
    assert sources.check_data(data) == []
    found = list(sources.placed(data, "train"))
    assert [row for _, row, _ in found] == PAIRS
    assert (found[0].place, found[10].place) == ("part-1.jsonl, line 1", "part-2.jsonl, line 1")
    before = sources.fingerprint(data)
    write(folder / "part-2.jsonl", PAIRS[11:])
    assert sources.fingerprint(data)["train"] != before["train"]
    assert sources.check_data(spec(folder, eval=str(folder / "part-1.jsonl"))) == [
        f"data.eval: {folder}/part-1.jsonl is also read for data.train: give rows that are not trained on, or leave it "
        "out"
    ]
    (folder / "more.csv").write_text("question,answer\n")
    assert sources.check_data(data) == [
        f"data.train: {folder} is a folder with files of several kinds (.csv, .jsonl): name a file in it, or a folder "
        "of one kind"
    ]


def of_files(*files: Path) -> DataSpec:
    return spec(files[0]).model_copy(update={"train": tuple(map(str, files))})


def test_a_list_of_files_is_their_rows_in_order(tmp_path: Path) -> None:
    files = [write(tmp_path / "b.jsonl", PAIRS[:10]), write(tmp_path / "a.parquet", PAIRS[10:])]
    data = of_files(*files)
    assert sources.check_data(data) == []
    found = list(sources.placed(data, "train"))
    assert [row for _, row, _ in found] == PAIRS
    assert (found[0].place, found[10].place) == ("b.jsonl, line 1", "a.parquet, row 1")
    assert sources.fingerprint(data) != sources.fingerprint(of_files(*files[::-1]))
    assert sources.check_data(data.model_copy(update={"eval": str(files[1])})) == [
        f"data.eval: {files[1]} is also read for data.train: give rows that are not trained on, or leave it out"
    ]
    absent = data.model_copy(update={"train": (*data.train, str(tmp_path / "c.jsonl"))})
    assert sources.check_data(absent) == [f"data.train: {tmp_path}/c.jsonl does not exist"]
    with pytest.raises(DataError, match="owner/name is the id of a hub data set, and a list names files"):
        sources.is_local((str(files[0]), "owner/name"))


def test_a_folder_that_datasets_saved_is_read_and_its_splits_are_taken_by_their_names(tmp_path: Path) -> None:
    whole = Dataset.from_list(PAIRS)
    whole.select(range(20, 30)).save_to_disk(tmp_path / "one", num_shards=2)
    one = spec(tmp_path / "one")
    assert [dict(row) for row in read(one, "train")] == PAIRS[20:]
    DatasetDict(train=whole.select(range(20)), held=whole.select(range(20, 30))).save_to_disk(tmp_path / "both")
    both = spec(tmp_path / "both", eval=str(tmp_path / "both"), eval_split="held")
    assert sources.check_data(both) == []
    assert [list(read(both, split)) for split in ("train", "eval")] == [PAIRS[:20], PAIRS[20:]]
    assert sources.check_data(spec(tmp_path / "both", train_split="training")) == [
        f"data.train: {tmp_path}/both has no split 'training': set data.train_split (there: held, train)"
    ]


# Reading


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert list(read(spec(write(tmp_path / name, PAIRS)), "train")) == PAIRS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read(spec(path), "train")) == PAIRS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_csv_columns_may_stand_between_semicolons_or_tabs(tmp_path: Path, delimiter: str, quoting: int) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        writer.writerows([["id", "question", "answer"], *([n, *pair.values()] for n, pair in enumerate(PAIRS))])
    data = spec(tmp_path / "a.csv")
    assert list(read(data, "train")) == [{"id": str(n), **pair} for n, pair in enumerate(PAIRS)]
    assert sources.check_data(data) == []
    (problem,) = sources.check_data(spec(tmp_path / "a.csv", prompt="{qestion}"))
    assert problem.endswith("columns: id, question, answer; did you mean {question}?")


def test_csv_is_read_with_commas_where_they_give_the_needed_columns(tmp_path: Path) -> None:
    """A semicolon is then a letter like any other."""
    (path := tmp_path / "a.csv").write_text("question,answer,a;b\n1,2,3\n1,2,3\n")
    assert sources.check_data(spec(path, eval_examples=1)) == []
    path.write_text("question|answer\n1|2\n")
    assert "{question} is not a column of" in sources.check_data(spec(path))[0]


LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", '\n{"question": 1}\n\n{"question": 2}\n', {"line 2": {"question": 1}, "line 4": {"question": 2}}),
        ("a.json", '\r\n{"answer": 2}\r\n\n{"answer": 4}', {"line 2": {"answer": 2}, "line 4": {"answer": 4}}),
        ("a.json", '[{"answer": 2},\n {"answer": 4}]', {"row 1": {"answer": 2}, "row 2": {"answer": 4}}),
        ("a.csv", f'answer\n\n"a\nb"\n{LONG}\n', {"line 3": {"answer": "a\nb"}, "line 5": {"answer": LONG}}),
    ],
)
def test_rows_have_the_places_of_the_file(tmp_path: Path, name: str, content: str, rows: dict[str, object]) -> None:
    (path := tmp_path / name).write_bytes(content.encode())
    assert {found.place: found.row for found in sources.placed(spec(path), "train")} == rows


def test_parquet_reads_the_needed_columns_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"id": 1, "question": "a", "answer": "b"}])
    (found,) = sources.placed(spec(path), "train")
    assert (found.place, found.row) == ("row 1", {"question": "a", "answer": "b"})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b'{"question": 1}\n{"question": \n', "line 2: is not JSON: Expecting value at"),
        ("a.jsonl", b'{"question": 1, "question": 2}', "line 1: cannot be used: it has the key 'question' twice"),
        ("a.jsonl", b'{"question": 1}\n\n"text"\n', "line 3: is a str, not an object"),
        ("a.jsonl", b'{"question": "\xe9"}\n', "line 1: is not UTF-8 text"),
        ("a.jsonl", b'{"question": 1\n{"a": 2}\n', "line 1: is not JSON: Expecting ',' delimiter at column 15"),
        ("a.jsonl", b'{"question": 1, "answer": null}', "line 1: column 'answer' is null: give it a value, or "),
        ("a.jsonl", b'{"chat": [{"role": "user", "content": "Hi"}]}', "line 1: column 'chat' has no assistant message"),
        ("a.json", b'[{"question": 1},\n 2]', "row 2: is a int, not an object"),
        ("a.json", b'[{"question": 1},\n', "is not JSON: Expecting value at line 2, column 1"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"question,answer\n", "has no rows"),
        ("a.csv", b"question,answer\n1,2\n1,2,3\n", "line 3: has 3 values for 2 columns (question, answer)"),
        ("a.csv", b"question;answer\n1;2\n3,4\n", "line 3: has 1 values for 2 columns (question, answer)"),
        ("a.csv", b'question,answer\n1,"2\n', "line 2: is not CSV: unexpected end of data"),
        ("a.csv", b"question,question\n1,2\n", "line 1: names a column twice: question, question"),
        ("a.csv", b"question,answer\n1,\xe9\n", "is not UTF-8 text"),
        ("a.csv", b"question;answer;x\tquestion\tanswer\n", "line 1: reads with semicolons and with tabs"),
        (
            "a.csv",
            b"my dog is lost,answer\nmy cat,cat\n",
            "columns: my dog is lost, answer; its first line is read as ",
        ),
        ("a.parquet", b"PAR1", "is not a Parquet file that can be read"),
    ],
)
def test_what_is_wrong_with_the_first_rows_is_named_with_the_place(tmp_path, name, content, says) -> None:
    (path := tmp_path / name).write_bytes(content)
    problem, *_ = sources.check_data(spec(path, **({"messages": "chat"} if b"chat" in content else {})))
    assert str(path) in problem and says in problem


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the hub; the calls made to it."""
    import datasets

    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None = None, *, split: str, revision: str | None) -> datasets.Dataset:
        calls.append((path, name, split, revision))
        if split == "missing":
            raise ValueError('Unknown split "missing". Should be one of ["train"].')
        return datasets.Dataset.from_list([{"picture": 0, **row} for row in PAIRS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_hub_rows_come_from_the_named_configuration_split_and_revision(hub: list[tuple[Any, ...]]) -> None:
    data = spec("openai/gsm8k:main", eval="openai/gsm8k", revision="abc", eval_split="held")
    assert list(read(data, "train")) == list(read(data, "eval")) == PAIRS
    assert hub == [("openai/gsm8k", "main", "train", "abc"), ("openai/gsm8k", None, "held", "abc")]
    # All columns are shown where one is missing.
    assert list(next(read(spec("a/b", prompt="{q}"), "train"))) == ["picture", "question", "answer"]
    with pytest.raises(DataError, match=r"data\.train: cannot load split 'missing' of the hub data set a/b: Unknown"):
        list(read(spec("a/b", train_split="missing"), "train"))


def test_hub_rows_are_drawn_like_those_of_a_file(hub: list[tuple[Any, ...]]) -> None:
    given = sources.divided(spec("a/b", hold_out="drawn", test_examples=10), every_column=True)
    rows = {part: [row for _, row, _ in of] for part, of in given.items()}
    assert {part: len(of) for part, of in rows.items()} == {"train": 15, "eval": 5, "test": 10}
    assert {row["question"] for of in rows.values() for row in of} == {row["question"] for row in PAIRS}
    assert ["picture" in rows[part][0] for part in sources.SPLITS] == [False, True, True]


# Checking


@pytest.mark.parametrize(
    ("train", "held", "revision", "is_wrong"),
    [
        ("a/b", "c/d", "1" * 40, True),
        ("a/b:x", "a/b:y", "1" * 40, False),
        ("a/b", "c/d", "refs/convert/parquet", False),
        ("a/b", None, "1" * 40, False),
        ("a/b", "a/b:y", None, False),
    ],
)
def test_one_commit_for_two_repositories_is_refused(train, held, revision, is_wrong):
    for split in ("eval", "test"):
        problems = sources.check_data(spec(train, revision=revision, **{split: held}))
        assert [problem.partition(":")[0] for problem in problems] == ["data.revision"] * is_wrong
        assert all(f"data.train and data.{split} name 2 (a/b and c/d)" in problem for problem in problems)


def test_missing_file_is_shown_whole_with_similar_names(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(train.parent)
    data = spec("trian.jsonl", eval="no/eval.jsonl")
    missing = f"data.train: {train.parent}/trian.jsonl does not exist; did you mean train.jsonl?"
    folder = f"data.eval: {train.parent}/no/eval.jsonl does not exist (nor does the folder {train.parent}/no)"
    assert sources.check_data(data) == [missing, folder]
    with pytest.raises(DataError, match=re.escape(missing)):
        sources.fingerprint(data)
    with pytest.raises(DataError, match=r"data\.test: is not given"):
        read(data, "test")


def test_a_file_that_another_split_names_is_not_offered_for_a_missing_one(train: Path) -> None:
    problems = sources.check_data(spec(str(train), test=str(train.parent / "trains.jsonl")))
    assert problems == [f"data.test: {train.parent}/trains.jsonl does not exist"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    assert sources.check_data(spec(path)) == []
    assert sources.check_data(spec(path, prompt="{qestion}")) == [
        f"data.prompt: {{qestion}} is not a column of {path}; columns: question, answer; did you mean {{question}}?"
    ]
    assert sources.check_data(spec(path, prompt="question")) == [
        "data.prompt: 'question' is a column, not a template: write \"{question}\""
    ]


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", PAIRS)
    data = spec(path, eval="eval.txt", test="nowhere.csv", prompt="{question", completion="{answer[0]}")
    fields = [problem.split(": ")[0] for problem in sources.check_data(data)]
    assert fields == ["data.prompt", "data.completion", "data.eval", "data.test"]


def test_rows_trained_on_cannot_be_evaluated_on(train: Path, tmp_path: Path) -> None:
    (link := tmp_path / "link.jsonl").symlink_to(train)
    same = "is the same file as data.train: give rows that are not trained on, or leave it out"
    assert sources.check_data(spec(train, eval=link)) == [f"data.eval: {same}"]
    assert sources.check_data(spec(train, test=train)) == [f"data.test: {same}"]
    assert sources.check_data(spec("a/b", eval="a/b", eval_split="train")) == [
        "data.eval: is the same split (train) as data.train: set data.eval_split, or leave it out"
    ]
    assert sources.check_data(spec("a/b", eval="a/b")) == []


@pytest.mark.parametrize("split", ["eval", "test"])
def test_a_copy_of_the_rows_trained_on_is_told_from_other_rows(train: Path, tmp_path: Path, split: str) -> None:
    copy = write(tmp_path / "copy.jsonl", PAIRS)
    problem = f"data.{split}: {copy} is a copy of data.train: give rows that are not trained on, or leave it out"
    assert sources.check_data(spec(train, **{split: copy})) == [problem]
    # As long, one letter is another.
    copy.write_bytes(train.read_bytes().replace(b"roughly", b"rouhgly", 1))
    assert sources.check_data(spec(train, **{split: copy})) == []


def test_files_of_other_sizes_are_not_read(train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write(tmp_path / "other.jsonl", PAIRS[:3])
    monkeypatch.setattr(sources, "_digest", lambda path: pytest.fail(f"{path} was read"))
    assert not sources.same_content(train, other)
    assert not sources.same_content(train, tmp_path / "missing.jsonl")


def test_test_file_is_checked_by_its_first_row_only(train: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"

    def problems(*rows: dict[str, Any], **fields: str) -> list[str]:
        return sources.check_data(spec(train, test=write(path, list(rows)), **fields))

    other = {"other": 1}
    assert problems(PAIRS[0], other) == []
    has = f"is not a column of {path}; columns: other"
    way_out = "leave data.test out with data.test=null if its rows are not of this task"
    assert problems(other) == [f"data.prompt: {{question}} {has}", f"data.completion: {{answer}} {has}; {way_out}"]
    # What is wrong with the other rows too is no sign of another task.
    (problem,) = problems(*PAIRS[:3], prompt="question")
    assert problem.endswith('write "{question}"')
    # Nor are no rows.
    assert problems() == [f"data.test: {path} has no rows"]


@pytest.mark.parametrize(("held_out", "problems"), [(29, 0), (30, 1), (200, 1), (10**9, 1)])
def test_too_few_rows_to_hold_out_is_a_problem(train: Path, held_out: int, problems: int) -> None:
    found = sources.check_data(spec(train, eval_examples=held_out))
    assert len(found) == problems
    for problem in found:
        assert problem.startswith(f"data.eval_examples: {held_out} rows are held out of data.train, which has 30:")


def test_checking_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*PAIRS[:20], *PAIRS])
    with path.open("a") as file:
        file.write("broken\n")
    assert sources.check_data(spec(path, eval_examples=40)) == []


# Fingerprints


def test_fingerprint_follows_content_not_place(train: Path, tmp_path: Path) -> None:
    copy = write(tmp_path / "copy.jsonl", PAIRS)
    first = sources.fingerprint(spec(train))
    assert sources.fingerprint(spec(copy)) == first
    assert {name: len(value) for name, value in first.items()} == {"train": 16, "form": 16}
    copy.write_bytes(copy.read_bytes() + b"\n")
    changed = sources.fingerprint(spec(copy))
    assert {name for name in first if changed[name] != first[name]} == {"train"}


def test_fingerprint_follows_how_rows_read_and_is_that_of_sweeps_before_a_field_existed(train: Path) -> None:
    reads = {"prompt": "{question} ", "completion": "{answer}.", "system": "Be brief.", "max_length": 64}
    changes: list[dict[str, Any]] = [{}, *({name: value} for name, value in (reads | {"eval_examples": 6}).items())]
    chats: dict[str, Any] = {"messages": "chat"}
    changes += [chats, {**chats, "train_on": "all"}]
    found = [sources.fingerprint(spec(train, **change)) for change in changes]
    assert len({each["form"] for each in found}) == len(changes)
    assert len({each["train"] for each in found}) == 1
    assert sources.fingerprint(spec(train, **chats, train_on="last"))["form"] == "18f95295d82a0900"


def test_fingerprint_of_hub_rows_is_what_was_declared() -> None:
    found = sources.fingerprint(spec("a/b:c", eval="a/b", test="a/b", revision="v1"))
    declared = {"train": "hub:a/b:c@v1/train", "eval": "hub:a/b@v1/validation", "test": "hub:a/b@v1/test"}
    assert {name: found[name] for name in declared} == declared
    assert sources.fingerprint(spec("a/b"))["train"] == "hub:a/b@main/train"
