"""Turns rows into text, and text into tokens with a mark on the tokens to learn.

The chat template of a model goes around prompt and answer. For a tokenizer without a chat template the text is the
prompt, the completion and the end token. The answer starts at the first token in which the whole text differs from the
prompt alone. So the learnt tokens include a token that holds both the end of the prompt and the start of the answer,
and any text that the template writes between the two, such as an empty chain of thought.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from trainables.data import templates
from trainables.errors import DataError
from trainables.inputs.installed import version
from trainables.specs import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The templates of Llama 3.2, Mistral Small 3 and others write today's date. The same rows must give the same tokens on
# every day, so templates write this date instead, the default of Llama's template.
_TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys under which data sets and chat templates keep the reasoning of an answer. transformers 5.24 fills the first
two for a template from any of the three."""
_REASONED = "</think>"
_SAID = "said"
_MARKUP = re.compile(r"<[|｜][^<>\s]*[|｜]>|\[/?[A-Z_]+\]")  # noqa: RUF001
"""Markup of turns that consists of no special tokens: Llama 2's [INST], DeepSeek's <｜User｜>."""  # noqa: RUF001
_NO_SYSTEM = "this model has no system message: write the text at the start of data.prompt"


class Text(NamedTuple):
    """One row as text."""

    prompt: str
    """The part that is not learnt; empty when everything is learnt."""
    whole: str
    """The prompt and the answer together."""
    is_shortened: bool = False
    """Whether the chat template leaves out part of the answer."""
    earlier: tuple[Text, ...] = ()
    """The text up to the end of each earlier answer that is learnt too. Each of these texts begins `whole`."""
    left_out: tuple[str, ...] = ()
    """Other parts of the chat that the chat template leaves out, such as "system messages"."""
    special: str = ""
    """The first special token of the tokenizer, or markup of the chat template, in the row itself."""
    learnt: str = ""
    """The learnt text as it stands in the data, without the text of the chat template."""

    @property
    def loses_words(self) -> bool:
        """Whether the chat template leaves out part of a learnt answer."""
        return self.is_shortened or any(each.is_shortened for each in self.earlier)

    @property
    def follows_its_prompt(self) -> bool:
        """Whether each answer is learnt behind the prompt that the served model would get."""
        return all(each.whole.startswith(each.prompt.rstrip()) for each in (self, *self.earlier))


class Encoded(NamedTuple):
    """One row as tokens."""

    ids: list[int]
    labelled: bytearray
    """One byte per token: 1 if it counts in the loss, else 0. The first token never counts."""
    splits_a_token: bool = False
    """Whether prompt and completion meet inside a token; never with a chat template."""


class Renderer:
    """Turns rows into text, and text into tokens, for one `DataSpec` and one tokenizer."""

    def __init__(self, data: DataSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self._templates = templates.parse_all(data)
        self._is_chat = data.text is None and bool(tokenizer.chat_template)
        self._chat_template = _with_fixed_date(_chat_template(tokenizer)) if self._is_chat else None
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        self._ends = tuple(special | {tokenizer.eos_token or ""} - {""})
        written = self._markup() if self._is_chat else ""
        behind = written.rpartition(_SAID)[2]
        self._own_ends = tuple(end for end in self._ends if end == tokenizer.eos_token or end in behind)
        # Without a chat template, special tokens in the templates of the sweep file are intended.
        meant = "" if self._is_chat else f"{data.prompt}{data.completion}"
        marks = {mark for mark in special.union(_MARKUP.findall(written)) if mark not in meant}
        self._special = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")
        if not self._is_chat and (data.messages is not None or data.system is not None):
            field = "messages" if data.messages is not None else "system"
            raise DataError(
                f"data.{field}: the model's tokenizer has no chat template: take an instruction-tuned model, "
                "or write data.prompt and data.completion instead"
            )

    def text(self, row: templates.Row, answer: str | None = None) -> Text:
        """Returns the text of one row, with `answer` in place of the row's own answer if given.

        Raises:
            DataError: a value is missing, or the chat template refuses the row.
        """
        if self.data.text is not None:
            learnt = self.without_end(self._templates["text"].fill(row))
            return Text("", learnt, learnt=learnt)
        if self.data.messages is not None:
            chat = templates.chat(row, self.data.messages)
            return self._chat(chat if answer is None else [*chat[:-1], _message("assistant", answer)])
        prompt = self._templates["prompt"].fill(row)
        completion = self._templates["completion"].fill(row) if answer is None else answer
        if not self._is_chat:
            special = self._first_special([prompt, completion])
            learnt = self.without_end(completion)
            return Text(prompt, prompt + learnt, special=special, learnt=learnt)
        system = [] if self.data.system is None else [_message("system", self.data.system)]
        text = self._chat([*system, _message("user", prompt), _message("assistant", completion)])
        if self.data.system is not None and self.data.system.strip() not in text.prompt:
            raise DataError(f"the chat template leaves data.system out: {_NO_SYSTEM}")
        return text

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Returns the tokens of each text, with an end token."""
        prompts = self._ids([text.prompt for text in texts])
        wholes = self._ids([text.whole for text in texts])
        earlier = self._earlier_spans(texts, wholes)
        encoded = []
        for prompt, whole, spans in zip(prompts, wholes, earlier, strict=True):
            shared = _shared(prompt, whole)
            start, splits_a_token = max(1, shared), not self._is_chat and shared < len(prompt)
            if not self._is_chat and self.tokenizer.eos_token_id is not None:
                whole = [*whole, self.tokenizer.eos_token_id]
            labelled = _labelled(len(whole), [*spans, (start, len(whole))])
            encoded.append(Encoded(whole, labelled, splits_a_token))
        return encoded

    def _earlier_spans(self, texts: Sequence[Text], wholes: Sequence[list[int]]) -> list[list[tuple[int, int]]]:
        """Returns, for each text, first and last + 1 token of each earlier answer up to data.max_length."""
        spans: list[list[tuple[int, int]]] = [[] for _ in texts]
        due = [place for place, text in enumerate(texts) if text.earlier]
        # Goes through the first answers of all texts, then the second ones, and drops a text once the rest is cut off.
        while due:
            answers = [texts[place].earlier[len(spans[place])] for place in due]
            prompts = self._ids([each.prompt for each in answers])
            answered = self._ids([each.whole for each in answers])
            for place, prompt, ids in zip(due, prompts, answered, strict=True):
                spans[place].append((max(1, _shared(prompt, ids)), _shared(ids, wholes[place])))
            due = [
                place
                for place in due
                if len(spans[place]) < len(texts[place].earlier) and spans[place][-1][1] < self.data.max_length
            ]
        return spans

    def _chat(self, messages: list[templates.Message]) -> Text:
        """Returns the text of a chat, with its earlier answers if data.train_on is all."""
        special = self._first_special([message["content"] for message in messages])
        for message in messages:
            if message["role"] == "assistant":
                message["content"] = self.without_end(message["content"])
        try:
            text = self._answer(messages)
            if self.data.train_on == "all":
                text = text._replace(earlier=self._earlier(messages, text.whole))
            learnt = "".join(_said(messages[number - 1], text.whole) for number in self._counted(messages))
            return text._replace(left_out=self._left_out(messages, text), special=special, learnt=learnt)
        except _refusals() as error:
            hint = "" if self.data.system is None else f"; if data.system is the cause: {_NO_SYSTEM}"
            raise DataError(f"the model's chat template refuses the row: {error}{hint}") from error

    def _answer(self, messages: list[templates.Message]) -> Text:
        """Renders the prompt, which is the chat without its last message, and the chat to the end of its last turn."""
        prompt = self._apply(messages[:-1], add_generation_prompt=True)
        whole = self._ended(self._apply(messages, add_generation_prompt=False))
        is_whole = _holds(whole, messages[-1]["content"]) and not self._ignores(messages, [len(messages)], "tool_calls")
        return Text(prompt, whole, not is_whole)

    def _left_out(self, messages: list[templates.Message], text: Text) -> tuple[str, ...]:
        """Names the parts that the chat template leaves out, except those of `Text.is_shortened`.

        Earlier reasoning that is not learnt does not count: templates also drop it when the model is served.
        """
        counted, found = self._counted(messages), []
        for number, message in enumerate(messages, 1):
            if message["role"] != "assistant":
                if not _holds(text.whole, message["content"]) and self._ignores(messages, [number], "content"):
                    found.append(f"{message['role']} messages")
            elif number in counted and self._ignores(messages[:number], [number], *_REASONING):
                found.append(" and ".join(key for key in _REASONING if message.get(key)))
        # All earlier answers at once: one by one, the time would grow with the square of their number.
        answers = [number for number, message in enumerate(messages, 1) if message["role"] == "assistant"]
        earlier = [number for number in answers if number not in counted]
        if self._ignores(messages, earlier, "tool_calls"):
            found.append("tool_calls of earlier answers")
        return tuple(dict.fromkeys(found))

    def _counted(self, messages: list[templates.Message]) -> list[int]:
        """Returns the message numbers, from 1, of the learnt answers."""
        return templates.answers(messages) if self.data.train_on == "all" else [len(messages)]

    def _ignores(self, messages: list[templates.Message], numbers: Sequence[int], *keys: str) -> bool:
        """Tells whether the chat template ignores `keys` of some messages. False if no message has one of the keys."""
        if not any(messages[number - 1].get(key) for number in numbers for key in keys):
            return False
        changed = list(messages)
        for number in numbers:
            changed[number - 1] = {name: value for name, value in changed[number - 1].items() if name not in keys}
        try:
            return self._apply(changed, add_generation_prompt=False) == self._apply(
                messages, add_generation_prompt=False
            )
        except _refusals():  # so the template reads a key
            return False

    def _earlier(self, messages: list[templates.Message], whole: str) -> tuple[Text, ...]:
        """Returns the text up to each answer but the last. Raises `DataError` if later messages change the text."""
        texts = []
        for number in templates.answers(messages)[:-1]:
            answer = self._answer(messages[:number])
            before = self._apply(messages[: number - 1], add_generation_prompt=False).rstrip()
            if not (whole.startswith(answer.whole) and answer.whole.startswith(before)):
                raise DataError(
                    "data.train_on: all needs a chat template that ends each answer, and writes it the same whether or "
                    f"not messages follow; this one does not for message {number}; take data.train_on: last"
                )
            texts.append(answer)
        return tuple(texts)

    def _markup(self) -> str:
        """Renders a chat that shows the markup of the chat template; "" if the template refuses the chat."""
        try:
            return self._apply([_message("user", _SAID), _message("assistant", _SAID)], add_generation_prompt=False)
        except _refusals():
            return ""

    def _first_special(self, texts: Sequence[str]) -> str:
        return next((found[0] for text in texts if (found := self._special.search(text))), "")

    def without_end(self, answer: str) -> str:
        """Removes the end tokens from the end of an answer, since one is added behind each answer."""
        while (ended := answer.rstrip()).endswith(self._own_ends):
            answer = next(ended.removesuffix(end) for end in self._own_ends if ended.endswith(end))
        return answer

    def _apply(self, messages: list[templates.Message], *, add_generation_prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self._chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return str(rendered)

    def _ended(self, whole: str) -> str:
        """Removes white space after the end token of the last turn, or adds an end token if there is none."""
        stripped = whole.rstrip()
        return stripped if stripped.endswith(self._ends) else whole + (self.tokenizer.eos_token or "")

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Returns token ids without an added end token. A chat already holds all its special tokens as text."""
        tokenizer = self.tokenizer
        ids: list[list[int]] = tokenizer(
            texts, add_special_tokens=not self._is_chat, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids if self._is_chat else [self._bare(each) for each in ids]

    def _bare(self, ids: list[int]) -> list[int]:
        """Keeps one start token when there are two, and removes end tokens."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        # A tokenizer may use one token as start and end; if it stands alone, it is the start.
        while end is not None and ids[-1:] == [end] and ids != [begin]:
            ids = ids[:-1]
        return ids


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Returns the text of an answer's tokens, without special ones."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def after_reasoning(text: str) -> str:
    """Returns an answer without the reasoning before it, which may be empty."""
    return text.rpartition(_REASONED)[2].lstrip() if _REASONED in text else text


def end_tokens(tokenizer: PreTrainedTokenizerBase, last: Iterable[int]) -> set[int]:
    """Returns the tokens among `last`, the last tokens of whole rows, that are special or the tokenizer's end token."""
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    return set(last) & {*special, tokenizer.eos_token_id}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns 16 hex digits over everything that decides tokens: vocabulary, rules, chat template, library versions."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # The settings of the last call; the next call sets its own.
        rules |= {"truncation": None, "padding": None}
    else:
        rules = sorted(tokenizer.get_vocab().items())
    identity = {
        "rules": rules,
        "chat_template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "versions": [version(library) for library in ("tokenizers", "transformers")],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the default chat template. Raises `DataError` if the tokenizer has several and none is the default."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        named = ", ".join(sorted(tokenizer.chat_template))
        raise DataError(
            f"model.source: its tokenizer has several chat templates ({named}) and none is named default: copy the "
            "model to a folder, and name one of them default in tokenizer_config.json or as chat_template.jinja"
        ) from None


def _with_fixed_date(template: str) -> str:
    """Returns the chat template with a fixed date.

    transformers 5.24 gives templates a function strftime_now that no caller can replace. A macro of the same name hides
    the function.
    """
    if "strftime_now" not in template:
        return template
    codes = "".join(f"|replace('%{code}', '{_TODAY.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + codes + " }}{% endmacro %}" + template


def _refusals() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    # Templates raise TemplateError for roles that do not alternate, or for a system message that they do not take. The
    # other errors come from expressions of a template.
    return TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError


def _said(message: templates.Message, whole: str) -> str:
    """Returns reasoning, content and tool calls of an answer, without reasoning that is missing in `whole`."""
    reasoning = next((str(message[key]) for key in _REASONING if message.get(key)), "")
    calls = json.dumps(message["tool_calls"], default=str) if message.get("tool_calls") else ""
    return f"{reasoning if _holds(whole, reasoning) else ''}{message['content']}{calls}"


def _message(role: str, content: str) -> templates.Message:
    return {"role": role, "content": content}


def _holds(whole: str, content: str) -> bool:
    """Tells whether a text holds all of a message, whatever white space a template puts between its parts."""
    return content.strip() in whole or "".join(content.split()) in "".join(whole.split())


def _labelled(length: int, spans: Sequence[tuple[int, int]]) -> bytearray:
    """Returns `length` bytes: 1 for the tokens in a span (start included, end not), else 0."""
    labelled = bytearray(length)
    for start, end in spans:
        labelled[start:end] = b"\1" * (end - start)
    return labelled


def _shared(prompt: list[int], whole: list[int]) -> int:
    """Counts the equal tokens at the start."""
    if whole[: len(prompt)] == prompt:
        return len(prompt)
    pairs = enumerate(zip(prompt, whole, strict=False))
    return next((i for i, (given, learnt) in pairs if given != learnt), len(whole))
