from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from transformers import PreTrainedTokenizerFast

from trainables.contract import Prepared
from trainables.data import dataset, sources
from trainables.errors import DataError, TrainableError
from trainables.specs import DataSpec

PAIRS = [{"question": f"What is {n} + {n}?", "answer": f'It is {2 * n}, "of course".\n'} for n in range(12)]
GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k_train.jsonl"
SEEDS = st.integers(0, 2**64)
SIZES = st.integers(1, 50)
Prepare = Callable[..., Prepared]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_models.tokenizer()


def write(path: Path, values: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def spec(train: Path | str, **fields: Any) -> DataSpec:
    form = {} if fields.keys() & {"messages", "text"} else {"prompt": "{question}", "completion": "{answer}"}
    return DataSpec(**{"train": str(train), "eval_examples": 3, **form, **fields})


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", PAIRS)


@pytest.fixture
def prepare(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Prepare:
    return lambda train, **fields: dataset.prepare(spec(train, **fields), tokenizer, tmp_path / "cache")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[sources.SplitName]:
    """The splits that were read from their files, rather than from the cache."""
    placed = sources.placed
    splits: list[sources.SplitName] = []

    def counted(data: DataSpec, split: sources.SplitName, **columns: bool) -> Any:
        splits.append(split)
        return placed(data, split, **columns)

    monkeypatch.setattr(sources, "placed", counted)
    return splits


def answers(split: dataset.Split, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The labelled text of each row."""
    return [tokenizer.decode(row.ids[row.labelled].tolist()) for row in map(split.row, range(len(split)))]


# Rows


def test_rows_come_back_with_their_labels(prepare: Prepare, train: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = dataset.load(prepare(train).payload)
    wanted = [f"{pair['answer']}<|end|>" for pair in PAIRS]
    assert answers(loaded.train, tokenizer) == wanted[:9]
    assert answers(loaded.eval, tokenizer) == wanted[9:]
    ids, labelled = loaded.train.row(4)
    assert ids.flags.writeable, "they can be handed to torch"
    assert tokenizer.decode(ids[~labelled].tolist()) == "<|user|>What is 4 + 4?<|end|><|assistant|>"


def test_payload_is_flat_arrays_with_the_summary(prepare: Prepare, train: Path) -> None:
    prepared = prepare(train)
    arrays = load_arrays(prepared.payload)
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        f"{split}.{name}": dtype
        for split in ("train", "eval")
        for name, dtype in {"ids": "int32", "starts": "int64", "labelled": "bool"}.items()
    } | {"eval.sizes": "int64"}
    lengths = np.concatenate([np.diff(arrays["train.starts"]), np.diff(arrays["eval.starts"])])
    summary = prepared.summary
    assert (summary.train_rows, summary.eval_rows) == (9, 3)
    assert summary.train_tokens == len(arrays["train.ids"]) == arrays["train.starts"][-1]
    assert summary.longest_row == lengths.max()
    assert (summary.truncated_rows, summary.dropped_rows) == (0, 0)


def test_eval_file_gives_its_first_rows(
    prepare: Prepare, train: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    others = [{"question": f"{pair['question']} Say it.", "answer": pair["answer"]} for pair in PAIRS[::-1]]
    held = write(tmp_path / "eval.jsonl", others)
    some = dataset.load(prepare(train, eval=str(held)).payload)
    assert len(some.train) == 12
    assert answers(some.eval, tokenizer) == [f"{pair['answer']}<|end|>" for pair in PAIRS[:-4:-1]]
    assert len(dataset.load(prepare(train, eval=str(held), eval_examples=None).payload).eval) == 12


def test_hub_rows_are_prepared_like_a_file(
    prepare: Prepare, train: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(PAIRS))
    local = prepare(train)
    assert prepare("a/b") == local
    made.clear()
    prepare("a/b", revision="main")
    prepare("a/b", revision="main")
    assert made == ["train"] * 6, "a branch may move: no cache"
    made.clear()
    pinned = {"revision": "0123456789" * 4}
    assert prepare("a/b", **pinned) == prepare("a/b", **pinned) == local
    assert made == ["train"] * 3, "a commit cannot move"


def test_chats_and_text_are_prepared(prepare: Prepare, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chats = [{"chat": [turns[0], {**turns[1], "content": f"Hello{n}"}], "body": f"A text{n}"} for n in range(4)]
    path = write(tmp_path / "a.jsonl", chats)
    assert answers(dataset.load(prepare(path, messages="chat").payload).train, tokenizer) == ["Hello0<|end|>"]
    ids, labelled = dataset.load(prepare(path, text="{body}").payload).train.row(0)
    assert (tokenizer.decode(ids.tolist()), labelled.tolist()) == ("A text0<|end|>", [False] + [True] * (len(ids) - 1))


def test_a_chat_of_which_all_counts_keeps_the_answers_before_the_cut(
    prepare: Prepare, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    others = [[{**turns[0], "content": text}, *turns[1:]] for text in "efg"]
    path = write(tmp_path / "a.jsonl", [{"chat": turns} for turns in (turns, *others)])
    whole, cut = (
        dataset.load(prepare(path, messages="chat", train_on="all", max_length=length).payload).train
        for length in (12, 9)
    )
    assert tokenizer.decode(whole.row(0).ids.tolist()) == (
        "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>d<|end|>"
    )
    assert answers(whole, tokenizer) == ["b<|end|>d<|end|>"]
    assert answers(cut, tokenizer) == ["b<|end|>"]
    assert whole.row(0).labels == 4
    last = prepare(path, messages="chat", max_length=12).summary
    assert last.fingerprint != prepare(path, messages="chat", train_on="all", max_length=12).summary.fingerprint


# Bytes of what is learnt


def test_evaluation_rows_know_the_bytes_of_their_answers(prepare: Prepare, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": text} for text in ("no", "a", "", "Zürich 東京")])
    prepared = prepare(path)
    rows = dataset.load(prepared.payload)
    assert rows.eval.sizes == (1, 0, len("Zürich 東京".encode())) and rows.train.sizes == ()
    assert prepared.summary.eval_bytes == 1 + 14
    assert dataset.load(prepare(path, text="{answer}!", eval_examples=1).payload).eval.sizes == (15,)
    # Twelve of the tokens of an answer are left, which are one byte each.
    long = write(tmp_path / "b.jsonl", [PAIRS[0], {"question": "c", "answer": "z" * 40}])
    assert dataset.load(prepare(long, max_length=16, eval_examples=1).payload).eval.sizes == (12,)


def test_of_a_chat_the_answers_that_are_learnt_count(
    prepare: Prepare, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    call = {"name": "look", "arguments": {}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Oui", "thinking": "hm"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Non", "tool_calls": [call]},
    ]
    first = [{"role": "user", "content": "Hello"}, *turns[1:]]
    path = write(tmp_path / "a.jsonl", [{"chat": first}, {"chat": turns}])
    calls, content = "{{ message['tool_calls'] }}", "{{ message['content'] }}"
    tokenizer.chat_template = tokenizer.chat_template.replace(content, content + calls)

    def size(train_on: str) -> int:
        return sum(dataset.load(prepare(path, messages="chat", train_on=train_on, eval_examples=1).payload).eval.sizes)

    assert size("last") == len("Non") + len(json.dumps([call]))
    assert size("all") == len("Oui") + size("last")  # this chat template writes no reasoning
    tokenizer.chat_template = tokenizer.chat_template.replace(content, "{{ message['thinking'] }}" + content)
    assert size("all") == len("hm") + len("Oui") + size("last")


def test_equal_evaluation_rows_have_one_fingerprint_whatever_the_tokenizer(
    train: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    def found(**fields: Any) -> str:
        return dataset.prepare(spec(train, **fields), tokenizer, tmp_path / "cache").summary.eval_fingerprint

    first, others = found(), [found(prompt="{question} "), found(eval_examples=4), found(system="Be brief.")]
    assert len({first, *others}) == 4
    write(train, [{**PAIRS[0], "question": "new"}, *PAIRS[1:]])
    assert found() == first  # the row is trained on
    tokenizer.chat_template = None
    assert found() == first


# Length


def test_long_rows_are_cut_and_those_without_an_answer_left_out(
    prepare: Prepare, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    short, long_answer, long_question = (
        {"question": question, "answer": answer} for question, answer in [("a", "b"), ("c", "z" * 40), ("y" * 13, "d")]
    )
    held = [
        {"question": "e", "answer": "f"},
        {"question": "g", "answer": "z" * 40},
        {"question": "x" * 13, "answer": "d"},
    ]
    prepared = prepare(write(tmp_path / "a.jsonl", [short, long_answer, long_question, *held]), max_length=16)
    loaded = dataset.load(prepared.payload)
    assert [len(loaded.train.row(i).ids) for i in range(2)] == [6, 16]
    assert answers(loaded.train, tokenizer) == ["b<|end|>", "z" * 12]
    summary = prepared.summary
    assert (summary.train_rows, summary.eval_rows) == (2, 2)
    assert (summary.truncated_rows, summary.dropped_rows, summary.longest_row) == (4, 2, 16)


def test_row_as_long_as_allowed_is_whole(prepare: Prepare, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": name, "answer": "zzzzzzzz"} for name in "abcd"])
    prepared = prepare(path, max_length=13)
    assert prepared.summary.truncated_rows == 0
    assert prepare(path, max_length=12).summary.truncated_rows == 4
    assert answers(dataset.load(prepared.payload).train, tokenizer) == ["zzzzzzzz<|end|>"]


def test_no_answer_left_says_what_to_change(prepare: Prepare, tmp_path: Path) -> None:
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


def test_eval_without_rows_to_learn_from_is_an_error(prepare: Prepare, train: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "eval.jsonl", [{"question": "x" * 200, "answer": "y"}])
    with pytest.raises(DataError, match=r"data\.eval: .* none of 1 rows has a token to learn"):
        prepare(train, eval=str(held), max_length=64)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_file_without_rows_is_an_error(prepare: Prepare, train: Path, tmp_path: Path, split: str) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    sources = {"train": train, "eval": str(train)} | {split: str(empty)}
    with pytest.raises(DataError, match=rf"data\.{split}: .*empty\.jsonl has no rows"):
        prepare(**sources)


@pytest.mark.parametrize(("held_out", "enough"), [(11, True), (12, False), (200, False)])
def test_train_must_have_more_rows_than_are_held_out(
    prepare: Prepare, train: Path, held_out: int, enough: bool
) -> None:
    if enough:
        assert prepare(train, eval_examples=held_out).summary.train_rows == 1
        return
    with pytest.raises(DataError, match=rf"data\.eval_examples: {held_out} rows are held out of .* which has 12"):
        prepare(train, eval_examples=held_out)


@pytest.mark.parametrize(
    ("bad", "place", "says"),
    [
        ({"question": "x"}, 5, "line 6: has no column 'answer'; columns: question"),
        ({"question": None, "answer": "y"}, 5, "line 6: column 'question' is null"),
        ({"question": "x"}, 11, "line 12: has no column 'answer'"),
        ({"question": "x", "answer": math.nan}, 5, "line 6: column 'answer' is nan, not a number: give it a value"),
        ({"question": -math.inf, "answer": "y"}, 11, "line 12: column 'question' is -inf, not a number"),
        ({"q": "x"}, 0, "{question} is not a column of"),
    ],
)
def test_bad_row_is_named(prepare: Prepare, tmp_path: Path, bad: dict[str, Any], place: int, says: str) -> None:
    path = write(tmp_path / "a.jsonl", [*PAIRS[:place], bad, *PAIRS[place + 1 :]])
    with pytest.raises(DataError, match=re.escape(says)) as error:
        prepare(path)
    assert str(path) in str(error.value)
    assert not list((tmp_path / "cache" / "data").glob("*.safetensors"))


# Identity and cache


def test_same_rows_elsewhere_come_from_the_cache(
    prepare: Prepare, train: Path, tmp_path: Path, made: list[str]
) -> None:
    first = prepare(train)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(train.read_bytes())
    assert prepare(copy) == first
    assert made == ["train"] * 3, "once to say which rows are held out, and once for each part"
    test = write(tmp_path / "test.jsonl", [{"question": f"Why {n}?", "answer": "So."} for n in range(10)])
    with_test = [prepare(copy, test=str(test)) for _ in range(2)]
    assert with_test == [first] * 2, "rows that only promotion sees change nothing"
    assert made == ["train"] * 6 + ["test"]


@pytest.mark.parametrize(
    "change", [{"max_length": 64}, {"prompt": "{question} "}, {"eval_examples": 4}, {"system": "x"}]
)
def test_other_reading_of_the_rows_is_prepared_anew(
    prepare: Prepare, train: Path, made: list[str], change: dict[str, Any]
) -> None:
    prepare(train)
    prepare(train, **change)
    assert made == ["train"] * 6


def test_other_tokenizer_is_prepared_anew(train: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    first = dataset.prepare(spec(train), tokenizer, tmp_path)
    tokenizer.chat_template = None
    assert dataset.prepare(spec(train), tokenizer, tmp_path).summary.fingerprint != first.summary.fingerprint


def test_summary_fingerprint_covers_labels_and_evaluation_rows(prepare: Prepare, train: Path, tmp_path: Path) -> None:
    first = prepare(train).summary
    other_eval = prepare(write(tmp_path / "b.jsonl", [*PAIRS[:-1], PAIRS[0]])).summary
    assert other_eval.train_tokens == first.train_tokens
    # The same tokens, all of them learnt.
    whole = "<|user|>{question}<|end|><|assistant|>{answer}"
    other_labels = prepare(train, text=whole).summary
    assert other_labels.train_tokens == first.train_tokens
    assert len({summary.fingerprint for summary in (first, other_eval, other_labels)}) == 3


def test_fingerprints_are_those_of_sweeps_that_were_launched_before(prepare: Prepare, train: Path) -> None:
    """Promotion refuses a sweep whose tokens are others than it recorded."""
    prepared = prepare(train)
    assert prepared.summary.fingerprint == "7920f94bca204850"
    assert dataset.split_fingerprint(dataset.load(prepared.payload).eval) == "5c36971711eff929"
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
def test_damaged_cache_is_made_again(
    prepare: Prepare, train: Path, tmp_path: Path, made: list[str], damage: Callable[[bytes], bytes]
) -> None:
    first = prepare(train)
    (file,) = (tmp_path / "cache" / "data").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert prepare(train) == first
    assert made == ["train"] * 6
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(prepare: Prepare, train: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TrainableError, match=rf"^{tmp_path}/cache/data: the cache cannot be written: .*QSWEEP_CACHE$"):
        prepare(train)


# Order


@given(SEEDS, SIZES, st.integers(0, 1000))
def test_every_epoch_visits_each_row_once(seed: int, size: int, epoch: int) -> None:
    assert sorted(dataset.batch_rows(seed, size, epoch * size, size)) == list(range(size))
    assert sorted(dataset.order(seed, size, epoch).tolist()) == list(range(size))


@given(SEEDS, SIZES, st.integers(0, 200), st.integers(0, 120), st.integers(0, 120))
def test_a_batch_is_a_slice_of_the_endless_order(seed: int, size: int, first: int, count: int, cut: int) -> None:
    whole = dataset.batch_rows(seed, size, first, count)
    cut = min(cut, count)
    assert len(whole) == count
    parts = [dataset.batch_rows(seed, size, first, cut), dataset.batch_rows(seed, size, first + cut, count - cut)]
    assert parts[0] + parts[1] == whole
    epochs = [dataset.order(seed, size, epoch) for epoch in range((first + count) // size + 1)]
    assert whole == np.concatenate(epochs)[first : first + count].tolist()


def test_seed_and_epoch_give_orders_of_their_own() -> None:
    pairs = [(seed, epoch) for seed in (0, 1, 2**32, 2**33) for epoch in range(3)]
    assert len({tuple(dataset.order(seed, 30, epoch)) for seed, epoch in pairs}) == len(pairs)


def test_order_is_the_same_on_every_machine_and_numpy() -> None:
    # A numpy that draws otherwise would train every trial of a resumed sweep on other rows than before.
    assert dataset.batch_rows(7, 8, 0, 16) == [6, 1, 5, 3, 7, 4, 2, 0, 3, 1, 7, 6, 0, 4, 5, 2]


def test_order_cannot_be_changed_for_those_who_ask_later() -> None:
    with pytest.raises(ValueError, match="read-only"):
        dataset.order(0, 4, 0)[0] = 1


# Real rows, where they lie beside the checkout


def test_grade_school_maths_is_prepared_whole(tmp_path: Path) -> None:
    if not GSM8K.is_file():
        pytest.skip("the GSM8K rows do not lie beside this checkout")
    with GSM8K.open("rb") as file:
        (tmp_path / "gsm8k.jsonl").write_bytes(b"".join(itertools.islice(file, 50)))
    data = DataSpec(
        train=str(tmp_path / "gsm8k.jsonl"),
        prompt="{question}",
        completion="{answer}",
        eval_examples=10,
        max_length=2048,
    )
    assert sources.check(data) == []
    tokenizer = tiny_models.tokenizer()
    prepared = dataset.prepare(data, tokenizer, tmp_path)
    train = dataset.load(prepared.payload).train
    found = [train.row(i) for i in range(len(train))]
    learnt = [tokenizer.decode(row.ids[row.labelled].tolist()) for row in found]
    assert learnt == [f"{row['answer']}<|end|>" for row in itertools.islice(sources.read(data, "train"), 40)]
    assert all(row.ids[-1] == tokenizer.eos_token_id for row in found)
    share = sum(row.labels for row in found) / prepared.summary.train_tokens
    assert 0.4 < share < 0.7
    assert (prepared.summary.truncated_rows, prepared.summary.dropped_rows) == (0, 0)
