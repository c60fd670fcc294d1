from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import data_rows
import numpy as np
import pytest
import tiny_models
from data_rows import answers, chat, write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays

from trainables.contract import Prepared
from trainables.data import dataset, sources
from trainables.errors import DataError, TrainableError
from trainables.specs import DataSpec

PAIRS = [{"question": f"What is {n} + {n}?", "answer": f'It is {2 * n}, "of course".\n'} for n in range(12)]
SEEDS = st.integers(0, 2**64)
SIZES = st.integers(1, 50)
spec = partial(data_rows.spec, eval_examples=3)


@pytest.fixture
def tokenizer():
    return tiny_models.tokenizer()


@pytest.fixture
def train(tmp_path):
    return write(tmp_path / "train.jsonl", PAIRS)


@pytest.fixture
def prepare(tmp_path, tokenizer) -> Callable[..., Prepared]:
    return lambda train, **fields: dataset.prepare(spec(train, **fields), tokenizer, tmp_path / "cache")


@pytest.fixture
def loaded(prepare) -> Callable[..., dataset.Splits]:
    return lambda train, **fields: dataset.load(prepare(train, **fields).payload)


@pytest.fixture
def made(monkeypatch):
    """The splits that were read from their files, rather than from the cache."""
    placed = sources.placed
    splits: list[sources.SplitName] = []

    def counted(data: DataSpec, split: sources.SplitName, **columns: bool) -> Any:
        splits.append(split)
        return placed(data, split, **columns)

    monkeypatch.setattr(sources, "placed", counted)
    return splits


# Rows


def test_rows_come_back_from_flat_arrays_with_labels_and_a_summary(prepare, train, tokenizer):
    prepared = prepare(train)
    rows, arrays, summary = dataset.load(prepared.payload), load_arrays(prepared.payload), prepared.summary
    wanted = [f"{pair['answer']}<|end|>" for pair in PAIRS]
    assert (answers(rows.train), answers(rows.eval)) == (wanted[:9], wanted[9:])
    ids, labelled = rows.train.row(4)
    assert ids.flags.writeable, "they can be handed to torch"
    assert tokenizer.decode(ids[~labelled].tolist()) == "<|user|>What is 4 + 4?<|end|><|assistant|>"
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        f"{split}.{name}": dtype
        for split in ("train", "eval")
        for name, dtype in {"ids": "int32", "starts": "int64", "labelled": "bool"}.items()
    } | {"eval.sizes": "int64"}
    lengths = np.concatenate([np.diff(arrays["train.starts"]), np.diff(arrays["eval.starts"])])
    assert summary.train_tokens == len(arrays["train.ids"]) == arrays["train.starts"][-1]
    assert (summary.train_rows, summary.eval_rows, summary.longest_row) == (9, 3, lengths.max())
    assert (summary.truncated_rows, summary.dropped_rows) == (0, 0)


def test_eval_file_gives_its_first_rows(loaded, train, tmp_path):
    others = [{"question": f"{pair['question']} Say it.", "answer": pair["answer"]} for pair in PAIRS[::-1]]
    held = write(tmp_path / "eval.jsonl", others)
    some = loaded(train, eval=held)
    assert len(some.train) == 12
    assert answers(some.eval) == [f"{pair['answer']}<|end|>" for pair in PAIRS[:-4:-1]]
    assert len(loaded(train, eval=held, eval_examples=None).eval) == 12


def test_hub_rows_are_prepared_like_a_file(prepare, train, made, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(PAIRS))
    local = prepare(train)
    for revision, readings in ((None, 6), ("main", 6), ("0123456789" * 4, 3)):  # a branch may move, a commit cannot
        made.clear()
        assert [prepare("a/b", revision=revision) for _ in range(2)] == [local] * 2
        assert made == ["train"] * readings


def test_a_chat_of_which_all_counts_keeps_the_answers_before_the_cut(prepare, loaded, tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"chat": chat(first, "b", "c", "d")} for first in "aefg"])
    whole, cut = (loaded(path, messages="chat", train_on="all", max_length=most).train for most in (12, 9))
    assert tokenizer.decode(whole.row(0).ids.tolist()) == (
        "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>d<|end|>"
    )
    assert (answers(whole), answers(cut)) == (["b<|end|>d<|end|>"], ["b<|end|>"])
    assert whole.row(0).labels == 4
    last, every = (prepare(path, messages="chat", train_on=which, max_length=12).summary for which in ("last", "all"))
    assert last.fingerprint != every.fingerprint


# Bytes of what is learnt


def test_evaluation_rows_know_the_bytes_of_their_answers(prepare, loaded, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": text} for text in ("no", "a", "", "Zürich 東京")])
    rows = loaded(path)
    assert rows.eval.sizes == (1, 0, len("Zürich 東京".encode())) and rows.train.sizes == ()
    assert prepare(path).summary.eval_bytes == 1 + 14
    assert loaded(path, text="{answer}!", eval_examples=1).eval.sizes == (15,)
    # Twelve of the tokens of an answer are left, which are one byte each.
    long = write(tmp_path / "b.jsonl", [PAIRS[0], {"question": "c", "answer": "z" * 40}])
    assert loaded(long, max_length=16, eval_examples=1).eval.sizes == (12,)


def test_of_a_chat_the_answers_that_are_learnt_count(loaded, tmp_path, tokenizer):
    turns = chat("Hi", "Oui", "And?", "Non")
    turns[1]["thinking"], turns[3]["tool_calls"] = "hm", [data_rows.CALL]
    path = write(tmp_path / "a.jsonl", [{"chat": [*chat("Hello"), *turns[1:]]}, {"chat": turns}])
    calls, content = "{{ message['tool_calls'] }}", "{{ message['content'] }}"
    tokenizer.chat_template = tokenizer.chat_template.replace(content, content + calls)

    def size(train_on: str) -> int:
        return sum(loaded(path, messages="chat", train_on=train_on, eval_examples=1).eval.sizes)

    assert size("last") == len("Non") + len(json.dumps([data_rows.CALL]))
    assert size("all") == len("Oui") + size("last")  # this chat template writes no reasoning
    tokenizer.chat_template = tokenizer.chat_template.replace(content, "{{ message['thinking'] }}" + content)
    assert size("all") == len("hm") + len("Oui") + size("last")


def test_equal_evaluation_rows_have_one_fingerprint_whatever_the_tokenizer(prepare, train, tokenizer):
    def found(**fields: Any) -> str:
        return prepare(train, **fields).summary.eval_fingerprint

    first, others = found(), [found(prompt="{question} "), found(eval_examples=4), found(system="Be brief.")]
    assert len({first, *others}) == 4
    write(train, [{**PAIRS[0], "question": "new"}, *PAIRS[1:]])
    assert found() == first  # the row is trained on
    tokenizer.chat_template = None
    assert found() == first


# Length


def test_long_rows_are_cut_and_those_without_an_answer_left_out(prepare, tmp_path):
    """Four tokens stand around the question, and one behind the answer."""
    rows = [("a", "z" * 11), ("c", "z" * 12), ("y" * 13, "d"), ("e", "f"), ("g", "z" * 40), ("x" * 13, "d")]
    path = write(tmp_path / "a.jsonl", [{"question": question, "answer": answer} for question, answer in rows])
    prepared = prepare(path, max_length=16)
    found = dataset.load(prepared.payload)
    assert [len(found.train.row(i).ids) for i in range(2)] == [16, 16]
    assert answers(found.train) == ["z" * 11 + "<|end|>", "z" * 12]
    summary = prepared.summary
    assert (summary.train_rows, summary.eval_rows, summary.longest_row) == (2, 2, 16)
    assert (summary.truncated_rows, summary.dropped_rows) == (4, 2)


def test_no_answer_left_says_what_to_change(prepare, tmp_path):
    lengths = enumerate((30, 20) * 4)
    path = write(tmp_path / "a.jsonl", [{"question": "xyzXYZWQ"[n] * length, "answer": "y"} for n, length in lengths])
    with pytest.raises(DataError) as error:
        prepare(path, max_length=16)
    assert str(error.value) == (
        f"data.train: {path}: none of 5 rows has a token to learn: raise data.max_length = 16 (24 would keep one), "
        "or check data.prompt and data.completion; columns: question, answer"
    )
    assert prepare(path, max_length=24).summary.train_rows == 2


# Errors


@pytest.mark.parametrize(
    ("rows", "fields", "says"),
    [
        ([], {}, "data.train: {path} has no rows"),
        (PAIRS, {"eval_examples": 12}, "data.eval_examples: 12 rows are held out of data.train, which has 12: "),
        ([*PAIRS[:5], {"question": "x"}], {}, "data.train: {path}, line 6: has no column 'answer'; columns: question"),
        ([*PAIRS, {"question": -math.inf, "answer": "y"}], {}, "line 13: column 'question' is -inf, not a number"),
        ([{"q": "x"}, *PAIRS], {}, "{{question}} is not a column of {path}"),
    ],
)
def test_rows_that_cannot_be_used_are_an_error_and_leave_nothing_in_the_cache(prepare, tmp_path, rows, fields, says):
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=re.escape(says.format(path=path))):
        prepare(path, **fields)
    assert not list((tmp_path / "cache" / "data").glob("*.safetensors"))


def test_a_file_to_evaluate_on_without_rows_is_an_error(prepare, train, tmp_path):
    with pytest.raises(DataError, match=r"data\.eval: .*empty\.jsonl has no rows"):
        prepare(train, eval=write(tmp_path / "empty.jsonl", []))


# Identity and cache


def test_same_rows_elsewhere_come_from_the_cache(prepare, train, tmp_path, made):
    first = prepare(train)
    copy = write(tmp_path / "copy.jsonl", PAIRS)
    assert prepare(copy) == first
    assert made == ["train"] * 3, "once to say which rows are held out, and once for each part"
    test = write(tmp_path / "test.jsonl", [{"question": f"Why {n}?", "answer": "So."} for n in range(10)])
    with_test = [prepare(copy, test=test) for _ in range(2)]
    assert [each.summary.test_rows for each in with_test] == [10, 10]
    alike = [(each.summary.fingerprint, each.summary.warnings) for each in (first, *with_test)]
    assert len(set(alike)) == 1, "rows that only promotion sees change nothing"
    assert made == ["train"] * 6 + ["test"]


def test_another_reading_and_another_tokenizer_are_prepared_anew(prepare, train, made, tokenizer):
    first = prepare(train)
    prepare(train, max_length=64)
    tokenizer.chat_template = None
    assert prepare(train).summary.fingerprint != first.summary.fingerprint
    assert made == ["train"] * 9


def test_summary_fingerprint_covers_labels_and_evaluation_rows(prepare, train, tmp_path):
    first = prepare(train).summary
    other_eval = prepare(write(tmp_path / "b.jsonl", [*PAIRS[:-1], PAIRS[0]])).summary
    # The same tokens, all of them learnt.
    other_labels = prepare(train, text="<|user|>{question}<|end|><|assistant|>{answer}").summary
    assert other_eval.train_tokens == first.train_tokens == other_labels.train_tokens
    assert len({summary.fingerprint for summary in (first, other_eval, other_labels)}) == 3


def test_fingerprints_are_those_of_sweeps_that_were_launched_before(prepare, loaded, train):
    """Promotion refuses a sweep whose tokens are others than it recorded."""
    assert prepare(train).summary.fingerprint == "7920f94bca204850"
    assert dataset.split_fingerprint(loaded(train).eval) == "5c36971711eff929"
    assert prepare(train, max_length=24).summary.fingerprint == "626e4e4e6c9df4ee"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"__metadata__", b"__metadatb__"),
        lambda content: b"\xff" * 64,
    ],
)
def test_damaged_cache_is_made_again(prepare, train, tmp_path, made, damage):
    first = prepare(train)
    (file,) = (tmp_path / "cache" / "data").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert prepare(train) == first
    assert made == ["train"] * 6
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(prepare, train, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TrainableError, match=rf"^{tmp_path}/cache/data: the cache cannot be written: .*QSWEEP_CACHE$"):
        prepare(train)


# Order


@given(SEEDS, SIZES, st.integers(0, 200), st.integers(0, 120), st.integers(0, 120))
def test_a_batch_is_a_slice_of_the_endless_order(seed, size, first, count, cut):
    whole = dataset.batch_rows(seed, size, first, count)
    cut = min(cut, count)
    assert len(whole) == count
    parts = [dataset.batch_rows(seed, size, first, cut), dataset.batch_rows(seed, size, first + cut, count - cut)]
    assert parts[0] + parts[1] == whole
    epochs = [dataset.order(seed, size, epoch) for epoch in range((first + count) // size + 1)]
    assert all(sorted(each.tolist()) == list(range(size)) for each in epochs), "each row once"
    assert whole == np.concatenate(epochs)[first : first + count].tolist()


def test_seed_and_epoch_give_orders_of_their_own_which_nobody_can_change():
    pairs = [(seed, epoch) for seed in (0, 1, 2**32, 2**33) for epoch in range(3)]
    assert len({tuple(dataset.order(seed, 30, epoch)) for seed, epoch in pairs}) == len(pairs)
    with pytest.raises(ValueError, match="read-only"):
        dataset.order(0, 4, 0)[0] = 1


def test_order_is_the_same_on_every_machine_and_numpy():
    # A numpy that draws otherwise would train every trial of a resumed sweep on other rows than before.
    assert dataset.batch_rows(7, 8, 0, 16) == [6, 1, 5, 3, 7, 4, 2, 0, 3, 1, 7, 6, 0, 4, 5, 2]


def test_some_rows_of_a_split_keep_their_tokens_labels_groups_and_bytes(tmp_path, tokenizer):
    rows = [{**row, "doc": f"d{number % 3}"} for number, row in enumerate(PAIRS)]
    files = {name: write(tmp_path / f"{name}.jsonl", rows) for name in ("train", "test")}
    whole = dataset.whole(spec(files["train"], test=str(files["test"]), group_by="doc"), "test", tokenizer)
    kept = dataset.part(whole, [1, 2, 7])
    assert (len(kept), kept.groups, kept.sizes) == (3, (1, 2, 1), tuple(whole.sizes[place] for place in (1, 2, 7)))
    for number, place in enumerate((1, 2, 7)):
        for ours, theirs in zip(kept.row(number), whole.row(place), strict=True):
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()
    assert dataset.shared_rows(whole, kept) == {1, 2, 7}
    assert dataset.split_fingerprint(dataset.part(whole, range(len(whole)))) == dataset.split_fingerprint(whole)
