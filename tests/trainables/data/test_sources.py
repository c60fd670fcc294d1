from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainables.data import sources
from trainables.errors import DataError
from trainables.specs import DataSpec

PAIRS = [{"question": f"What is {n}, roughly?", "answer": f'It is\n{n}; "{n}" é\u2028'} for n in range(30)]


def write_jsonl(path: Path, values: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


def write(path: Path, values: Sequence[Mapping[str, object]]) -> Path:
    """Writes rows in the format that the suffix says."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(values[0]))
            writer.writeheader()
            writer.writerows(values)
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(values)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    else:
        write_jsonl(path, values)
    return path


def spec(train: Path | str, eval: Path | str | None = None, **fields: Any) -> DataSpec:
    form = {} if fields.keys() & {"messages", "text"} else {"prompt": "{question}", "completion": "{answer}"}
    held = None if eval is None else str(eval)
    return DataSpec(**{"train": str(train), "eval": held, "eval_examples": 5, **form, **fields})


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "train.jsonl", PAIRS)


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


def test_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="owner/name is a folder: name a file in it"):
        sources.is_local("owner/name")


# Reading


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert list(sources.read(spec(write(tmp_path / name, PAIRS)), "train")) == PAIRS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(sources.read(spec(path), "train")) == PAIRS


def test_json_file_may_hold_lines_and_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\r\n{"question": 1, "answer": 2}\r\n\n{"question": 3, "answer": 4}')
    assert list(sources.read(spec(path), "train")) == [{"question": 1, "answer": 2}, {"question": 3, "answer": 4}]


def test_csv_values_are_strings_and_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer\n\n1,{'x' * 200_000}\n")
    assert list(sources.read(spec(path), "train")) == [{"question": "1", "answer": "x" * 200_000}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_csv_columns_may_stand_between_semicolons_or_tabs(tmp_path: Path, delimiter: str, quoting: int) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        writer.writerows([["id", "question", "answer"], *([n, *pair.values()] for n, pair in enumerate(PAIRS))])
    data = spec(tmp_path / "a.csv")
    assert list(sources.read(data, "train")) == [{"id": str(n), **pair} for n, pair in enumerate(PAIRS)]
    assert sources.check(data) == []
    (problem,) = sources.check(spec(tmp_path / "a.csv", prompt="{qestion}"))
    assert problem.endswith("columns: id, question, answer; did you mean {question}?")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        # The needed columns are there with commas: the semicolon is a letter like any other.
        ("question,answer,a;b\n1,2,3\n1,2,3\n", None),
        ("question;answer\n1;2\n3,4\n", "line 3: has 1 values for 2 columns (question, answer)"),
        ("answer;x\tanswer\n", "line 1: reads with semicolons and with tabs"),
        ("question|answer\n1|2\n", "{question} is not a column of"),
    ],
)
def test_csv_is_never_read_by_a_wrong_guess(tmp_path: Path, content: str, problem: str | None) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    prompt = "{question}" if "question" in content else "Why?"
    found = sources.check(spec(path, prompt=prompt, completion="{answer}", eval_examples=1))
    assert found == [] if problem is None else problem in found[0], found


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"question": 1}\n\n{"question": 2}\n')
    (tmp_path / "a.csv").write_text('question,answer\n\n1,"two\nlines"\n3,4\n')
    write(tmp_path / "a.json", PAIRS[:2])
    write(tmp_path / "a.parquet", PAIRS[:2])
    places = {
        kind: [found.place for found in sources.placed(spec(tmp_path / f"a.{kind}"), "train")]
        for kind in ("jsonl", "csv", "json", "parquet")
    }
    assert places == {
        "jsonl": ["line 2", "line 4"],
        "csv": ["line 3", "line 5"],
        "json": ["row 1", "row 2"],
        "parquet": ["row 1", "row 2"],
    }


def test_parquet_reads_the_needed_columns_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"id": 1, "question": "a", "answer": "b"}])
    assert list(sources.read(spec(path), "train")) == [{"question": "a", "answer": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"question": 1}\n{"question": \n', r"line 2: is not JSON: Expecting value at"),
        ("a.jsonl", b'{"question": 1, "question": 2}', r"line 1: cannot be used: it has the key 'question' twice"),
        ("a.jsonl", b'{"question": 1}\n\n"text"\n', r"line 3: is a str, not an object"),
        ("a.jsonl", b'{"question": "\xe9"}\n', r"line 1: is not UTF-8 text"),
        ("a.json", b'[{"question": 1},\n 2]', r"row 2: is a int, not an object"),
        (
            "a.jsonl",
            b'{"question": 1\n{"question": 2}\n',
            r"line 1: is not JSON: Expecting ',' delimiter at column 15$",
        ),
        ("a.json", b'[{"question": 1},\n', r"is not JSON: .* at line 2, column 1"),
        ("a.csv", b"question,answer\n1,2\n1,2,3\n", r"line 3: has 3 values for 2 columns \(question, answer\)"),
        ("a.csv", b"question,answer\n1\n", r"line 2: has 1 values for 2 columns"),
        ("a.csv", b'question,answer\n1,"2\n', r"line 2: is not CSV: unexpected end of data"),
        ("a.csv", b"question,question\n1,2\n", r"line 1: names a column twice: question, question"),
        ("a.csv", b"question,answer\n1,\xe9\n", r"is not UTF-8 text"),
        ("a.parquet", b"PAR1", r"is not a Parquet file that can be read"),
    ],
)
def test_unreadable_file_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        list(sources.read(spec(path), "train"))
    assert str(error.value).startswith(f"data.train: {path}")


def test_split_that_is_not_given_cannot_be_read(train: Path) -> None:
    with pytest.raises(DataError, match=r"data\.test: is not given"):
        sources.read(spec(train), "test")


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
    data = spec("openai/gsm8k:main", "openai/gsm8k", revision="abc", eval_split="held")
    assert list(sources.read(data, "train")) == PAIRS
    assert list(sources.read(data, "eval")) == PAIRS
    assert hub == [("openai/gsm8k", "main", "train", "abc"), ("openai/gsm8k", None, "held", "abc")]


def test_hub_columns_are_all_shown_when_one_is_missing(hub: list[tuple[Any, ...]]) -> None:
    assert list(next(sources.read(spec("a/b", prompt="{q}"), "train"))) == ["picture", "question", "answer"]


def test_hub_failure_names_the_field_and_the_split(hub: list[tuple[Any, ...]]) -> None:
    with pytest.raises(DataError, match=r"data\.train: cannot load split 'missing' of the hub data set a/b: Unknown"):
        list(sources.read(spec("a/b", train_split="missing"), "train"))


# Checking


def test_good_files_have_no_problems(train: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "eval.csv", PAIRS)
    test = write(tmp_path / "test.parquet", PAIRS)
    assert sources.check(spec(train, held, test=str(test))) == []
    assert sources.check(spec("openai/gsm8k")) == []


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
def test_one_commit_for_two_repositories_is_refused(
    train: str, held: str | None, revision: str | None, is_wrong: bool
) -> None:
    problems = sources.check(spec(train, held, revision=revision))
    assert [problem.partition(":")[0] for problem in problems] == ["data.revision"] * is_wrong
    assert all("data.train and data.eval name 2 (a/b and c/d)" in problem for problem in problems)
    # The rows of data.test are read at that commit too.
    assert sources.check(spec(train, test=held, revision=revision)) == [
        problem.replace("data.eval", "data.test") for problem in problems
    ]


def test_missing_file_is_shown_whole_with_similar_names(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(train.parent)
    problems = sources.check(spec("trian.jsonl", "no/eval.jsonl"))
    assert problems == [
        f"data.train: {train.parent}/trian.jsonl does not exist; did you mean train.jsonl?",
        f"data.eval: {train.parent}/no/eval.jsonl does not exist (nor does the folder {train.parent}/no)",
    ]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b""), ("a.csv", b""), ("a.csv", b"question,answer\n")])
def test_file_without_rows_is_a_problem(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert sources.check(spec(path)) == [f"data.train: {path} has no rows"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    assert sources.check(spec(path, prompt="{qestion}")) == [
        f"data.prompt: {{qestion}} is not a column of {path}; columns: question, answer; did you mean {{question}}?"
    ]
    assert sources.check(spec(path, prompt="question")) == [
        "data.prompt: 'question' is a column, not a template: write \"{question}\""
    ]


def test_bad_value_is_named_with_its_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*PAIRS[:6], {"question": "x", "answer": None}])
    assert sources.check(spec(path)) == [
        f"data.train: {path}, line 7: column 'answer' is null: give it a value, or leave the row out"
    ]


def test_a_chat_without_an_answer_is_named_with_its_line(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Hi"}
    path = write_jsonl(tmp_path / "a.jsonl", [{"chat": [user]}, {"chat": "Hi"}] * 5)
    (problem,) = sources.check(spec(path, messages="chat"))
    assert problem == f"data.train: {path}, line 1: column 'chat' has no assistant message to learn from (roles: user)"


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", PAIRS)
    problems = sources.check(spec(path, "eval.txt", test="nowhere.csv", prompt="{question", completion="{answer[0]}"))
    assert [problem.split(": ")[0] for problem in problems] == [
        "data.prompt", "data.completion", "data.eval", "data.test",
    ]  # fmt: skip


def test_rows_trained_on_cannot_be_evaluated_on(train: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(train)
    same = "is the same file as data.train: give rows that are not trained on, or leave it out"
    assert sources.check(spec(train, link)) == [f"data.eval: {same}"]
    assert sources.check(spec(train, test=str(train))) == [f"data.test: {same}"]
    assert sources.check(spec("a/b", "a/b", eval_split="train")) == [
        "data.eval: is the same split (train) as data.train: set data.eval_split, or leave it out"
    ]
    assert sources.check(spec("a/b", "a/b")) == []


@pytest.mark.parametrize("split", ["eval", "test"])
def test_a_copy_of_the_rows_trained_on_is_told_from_other_rows(train: Path, tmp_path: Path, split: str) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(train.read_bytes())
    problem = f"data.{split}: {copy} is a copy of data.train: give rows that are not trained on, or leave it out"
    assert sources.check(spec(train, **{split: str(copy)})) == [problem]
    # As long, one letter is another.
    copy.write_bytes(train.read_bytes().replace(b"roughly", b"rouhgly", 1))
    assert sources.check(spec(train, **{split: str(copy)})) == []


def test_files_of_other_sizes_are_not_read(train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", PAIRS[:3])
    monkeypatch.setattr(sources, "_digest", lambda path: pytest.fail(f"{path} was read"))
    assert not sources.same_content(train, other)
    assert not sources.same_content(train, tmp_path / "missing.jsonl")
    assert sources.same_content(train, train)


def test_a_csv_file_without_a_header_is_told_that_its_first_line_is_read_as_one(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("my dog is lost,dog\nmy cat is ill,cat\n")
    first, *_ = sources.check(spec(path, prompt="{text}"))
    assert first.endswith("columns: my dog is lost, dog; its first line is read as the header")


def test_test_file_is_checked_by_its_first_row_only(train: Path, tmp_path: Path) -> None:
    test = write_jsonl(tmp_path / "test.jsonl", [PAIRS[0], {"other": 1}])
    assert sources.check(spec(train, test=str(test))) == []
    write_jsonl(test, [{"other": 1}])
    first, second = sources.check(spec(train, test=str(test)))
    assert first == f"data.prompt: {{question}} is not a column of {test}; columns: other"
    told = f"data.completion: {{answer}} is not a column of {test}; columns: other"
    assert second == f"{told}; leave data.test out with data.test=null if its rows are not of this task"
    # What is wrong with the other rows too is no sign of another task.
    bare = spec(train, test=str(write_jsonl(test, PAIRS[:3])), prompt="question")
    (problem,) = sources.check(bare)
    assert problem.endswith('write "{question}"')
    # Nor are no rows.
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    assert sources.check(spec(train, test=str(empty))) == [f"data.test: {empty} has no rows"]


@pytest.mark.parametrize(("held_out", "problems"), [(29, 0), (30, 1), (200, 1), (10**9, 1)])
def test_too_few_rows_to_hold_out_is_a_problem(train: Path, held_out: int, problems: int) -> None:
    found = sources.check(spec(train, eval_examples=held_out))
    assert len(found) == problems
    for problem in found:
        assert problem.startswith(f"data.eval_examples: {held_out} rows are held out of data.train, which has 30:")


def test_checking_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*PAIRS[:20], *PAIRS])
    with path.open("a") as file:
        file.write("broken\n")
    assert sources.check(spec(path, eval_examples=40)) == []


# Fingerprints


def test_fingerprint_follows_content_not_place(train: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.jsonl"
    copy.write_bytes(train.read_bytes())
    first = sources.fingerprint(spec(train))
    assert sources.fingerprint(spec(copy)) == first
    assert first.keys() == {"train", "form"}
    assert all(len(value) == 16 for value in first.values())
    copy.write_bytes(copy.read_bytes() + b"\n")
    changed = sources.fingerprint(spec(copy))
    assert changed["train"] != first["train"]
    assert changed["form"] == first["form"]


def test_fingerprint_follows_how_rows_read(train: Path) -> None:
    reads = {"prompt": "{question} ", "completion": "{answer}.", "system": "Be brief.", "max_length": 64}
    changes: list[dict[str, Any]] = [{}, *({name: value} for name, value in (reads | {"eval_examples": 6}).items())]
    found = [sources.fingerprint(spec(train, **change)) for change in changes]
    assert len({each["form"] for each in found}) == len(changes)
    assert len({each["train"] for each in found}) == 1


def test_fingerprint_of_chats_is_that_of_sweeps_that_knew_the_last_answer_only(train: Path) -> None:
    chats = {"prompt": None, "completion": None, "messages": "chat"}
    found = [sources.fingerprint(spec(train, **chats, **said))["form"] for said in ({}, {"train_on": "last"})]
    assert found == ["18f95295d82a0900"] * 2
    assert sources.fingerprint(spec(train, **chats, train_on="all"))["form"] != found[0]


def test_fingerprint_of_hub_rows_is_what_was_declared() -> None:
    data = spec("a/b:c", "a/b", test="a/b", revision="v1")
    found = sources.fingerprint(data)
    assert found["train"] == "hub:a/b:c@v1/train"
    assert found["eval"] == "hub:a/b@v1/validation"
    assert found["test"] == "hub:a/b@v1/test"
    assert sources.fingerprint(spec("a/b"))["train"] == "hub:a/b@main/train"


def test_fingerprint_of_a_missing_file_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .*/none\.csv does not exist"):
        sources.fingerprint(spec(tmp_path / "none.csv"))
