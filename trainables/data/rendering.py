"""Rows as text, and text as tokens with the place where the answer begins.

A chat model's own template surrounds prompt and answer; a tokenizer without one gets prompt, completion and its end
token one after another. The answer begins where the tokens of the whole part from those of the prompt alone, as the
model will be prompted: so a token that spans both belongs to the answer, and what the template puts between them
(an empty chain of thought, for example) is learnt too.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from trainables.data import templates
from trainables.errors import DataError
from trainables.specs import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Templates of Llama 3.2, Mistral Small 3 and others write today's date. The same rows must give the same tokens on
# any day; this is the date that Llama's template writes where it cannot ask for one.
_TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
_NO_SYSTEM = "this model knows no system message, write it at the start of data.prompt"


class Text(NamedTuple):
    """One row as text."""

    prompt: str
    """What is given; empty where all is to be learnt."""
    whole: str
    """The prompt and the answer."""
    earlier: tuple[tuple[str, str], ...] = ()
    """Prompt and whole of each answer before, where those are learnt too; each whole is a start of this one."""


class Encoded(NamedTuple):
    """One row as tokens."""

    ids: list[int]
    labelled: bytearray
    """For each token 1 where it counts in the loss, else 0; the first never does."""


class Renderer:
    """Turns rows into text, and text into tokens, as one `DataSpec` and one tokenizer say."""

    def __init__(self, data: DataSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self.data = data
        self._tokenizer = tokenizer
        self._templates = templates.parse_all(data)
        self._is_chat = data.text is None and bool(tokenizer.chat_template)
        self._chat_template = _with_fixed_date(tokenizer.get_chat_template()) if self._is_chat else None
        added = tokenizer.added_tokens_decoder.values()
        self._ends = tuple({token.content for token in added if token.special} | {tokenizer.eos_token or ""} - {""})
        if not self._is_chat and (data.messages is not None or data.system is not None):
            field = "messages" if data.messages is not None else "system"
            raise DataError(
                f"data.{field}: the model's tokenizer has no chat template: take an instruction-tuned model, "
                "or say with data.prompt and data.completion how a row reads"
            )

    def text(self, row: templates.Row) -> Text:
        """The text of one row. Raises `DataError` for what the row lacks or the chat template refuses."""
        if self.data.text is not None:
            return Text("", self._templates["text"].fill(row))
        if self.data.messages is not None:
            return self._chat(templates.chat(row, self.data.messages))
        prompt, completion = (self._templates[field].fill(row) for field in ("prompt", "completion"))
        if not self._is_chat:
            return Text(prompt, prompt + completion)
        system = [] if self.data.system is None else [_message("system", self.data.system)]
        text = self._chat([*system, _message("user", prompt), _message("assistant", completion)])
        if self.data.system is not None and self.data.system.strip() not in text.prompt:
            raise DataError(f"the chat template leaves data.system out: {_NO_SYSTEM}")
        return text

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """The tokens of each text, an end token included."""
        prompts = self._ids([text.prompt for text in texts])
        wholes = self._ids([text.whole for text in texts])
        earlier = self._earlier_spans(texts, wholes)
        encoded = []
        for prompt, whole, spans in zip(prompts, wholes, earlier, strict=True):
            start = max(1, _shared(prompt, whole))
            if not self._is_chat and self._tokenizer.eos_token_id is not None:
                whole = [*whole, self._tokenizer.eos_token_id]
            encoded.append(Encoded(whole, _labelled(len(whole), [*spans, (start, len(whole))])))
        return encoded

    def _earlier_spans(self, texts: Sequence[Text], wholes: Sequence[list[int]]) -> list[list[tuple[int, int]]]:
        """Where the tokens of the earlier answers of each text begin and end, those beyond data.max_length left out."""
        spans: list[list[tuple[int, int]]] = [[] for _ in texts]
        due = [place for place, text in enumerate(texts) if text.earlier]
        # The first answers of all texts, then the second ones: long chats are left once the rest of them is cut off.
        while due:
            answers = [texts[place].earlier[len(spans[place])] for place in due]
            prompts, answered = (self._ids([answer[part] for answer in answers]) for part in (0, 1))
            for place, prompt, ids in zip(due, prompts, answered, strict=True):
                spans[place].append((max(1, _shared(prompt, ids)), _shared(ids, wholes[place])))
            due = [
                place
                for place in due
                if len(spans[place]) < len(texts[place].earlier) and spans[place][-1][1] < self.data.max_length
            ]
        return spans

    def _chat(self, messages: list[templates.Message]) -> Text:
        """The chat up to the end of its last turn, and the answers in it that are learnt."""
        from jinja2 import TemplateError

        try:
            text = self._answer(messages)
            if self.data.train_on == "all":
                text = text._replace(earlier=self._earlier(messages, text.whole))
            return text
        # What a template raises itself, roles that do not alternate or no place for a system message, and what its
        # expressions do.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
            hint = "" if self.data.system is None else f"; if it is data.system: {_NO_SYSTEM}"
            raise DataError(f"the model's chat template refuses the row: {error}{hint}") from error

    def _answer(self, messages: list[templates.Message]) -> Text:
        """The chat before its last message, as the model is prompted, and the chat up to the end of its last turn."""
        prompt = self._apply(messages[:-1], add_generation_prompt=True)
        return Text(prompt, self._ended(self._apply(messages, add_generation_prompt=False)))

    def _earlier(self, messages: list[templates.Message], whole: str) -> tuple[tuple[str, str], ...]:
        """Prompt and whole of each answer before the last one; what is learnt must be what will be asked for."""
        pairs = []
        for number in templates.answers(messages)[:-1]:
            prompt, answered, _ = self._answer(messages[:number])
            before = self._apply(messages[: number - 1], add_generation_prompt=False).rstrip()
            if not (whole.startswith(answered) and answered.startswith(before)):
                raise DataError(
                    "data.train_on: all needs a chat template that ends each answer, and writes it alike whether "
                    f"others follow or not; this one does not for message {number}; take data.train_on: last"
                )
            pairs.append((prompt, answered))
        return tuple(pairs)

    def _apply(self, messages: list[templates.Message], *, add_generation_prompt: bool) -> str:
        rendered = self._tokenizer.apply_chat_template(
            messages,
            chat_template=self._chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return str(rendered)

    def _ended(self, whole: str) -> str:
        """The chat without what its template writes after the end of the turn, which nobody will generate."""
        stripped = whole.rstrip()
        return stripped if stripped.endswith(self._ends) else whole + (self._tokenizer.eos_token or "")

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids without an end token. A chat's text already holds every special token that belongs there."""
        tokenizer = self._tokenizer
        ids: list[list[int]] = tokenizer(
            texts, add_special_tokens=not self._is_chat, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids if self._is_chat else [self._bare(each) for each in ids]

    def _bare(self, ids: list[int]) -> list[int]:
        """One start token, where the row writes it too; no end token, from the row or the tokenizer."""
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        # Where one token both begins and ends a text, alone it is the beginning.
        while end is not None and ids[-1:] == [end] and ids != [begin]:
            ids = ids[:-1]
        return ids


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits over all that decides which tokens a text gives: vocabulary, rules, template and libraries."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # Left over from the last call that cut or padded, and of no effect on the next.
        rules |= {"truncation": None, "padding": None}
    else:
        rules = sorted(tokenizer.get_vocab().items())
    identity = {
        "rules": rules,
        "chat_template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "versions": [importlib.metadata.version(library) for library in ("tokenizers", "transformers")],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _with_fixed_date(template: str) -> str:
    """The chat template, writing the same date every day.

    transformers 5.24 offers strftime_now to templates and lets no caller replace it; a macro of that name goes first.
    """
    if "strftime_now" not in template:
        return template
    codes = "".join(f"|replace('%{code}', '{_TODAY.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + codes + " }}{% endmacro %}" + template


def _message(role: str, content: str) -> templates.Message:
    return {"role": role, "content": content}


def _labelled(length: int, spans: Sequence[tuple[int, int]]) -> bytearray:
    """The tokens of each span among `length` tokens, from its start up to its end."""
    labelled = bytearray(length)
    for start, end in spans:
        labelled[start:end] = b"\1" * (end - start)
    return labelled


def _shared(prompt: list[int], whole: list[int]) -> int:
    """Length of the common start."""
    if whole[: len(prompt)] == prompt:
        return len(prompt)
    pairs = enumerate(zip(prompt, whole, strict=False))
    return next((i for i, (given, learnt) in pairs if given != learnt), len(whole))
