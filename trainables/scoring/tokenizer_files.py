"""Compares tokenizers by their saved files. Uses no torch and no transformers."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.inputs import json_text

_TEMPLATE, _RULES, _SETTINGS = "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"


def difference(one: Mapping[str, bytes], other: Mapping[str, bytes], *, of_chats: bool) -> str | None:
    """Names a part in which two tokenizers differ, so that rows may have other tokens; None if there is none.

    Args:
        one: file name -> content.
        of_chats: whether rows pass through the chat template.
    """
    if of_chats and _template(one) != _template(other):
        return "chat template"
    return "tokenizer" if _rules(one) != _rules(other) or _ends(one) != _ends(other) else None


def _template(files: Mapping[str, bytes]) -> bytes | None:
    """Returns the chat template in a form that is the same for equal templates."""
    content = files.get(_TEMPLATE)
    # transformers saves line ends unchanged, and loads each as a newline, as jinja does.
    return None if content is None else content.replace(b"\r\n", b"\n")


def _rules(files: Mapping[str, bytes]) -> object:
    """Returns vocabulary and rules in a form that is the same for equal rules."""
    if _RULES not in files:
        return {name: content for name, content in files.items() if name not in (_TEMPLATE, _SETTINGS)}
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(files[_RULES])
    except Exception:  # the library's only error, for a file of a later version: then the bytes are compared
        return files[_RULES]
    # The settings of the last call; the next call sets its own.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Written again, because another version of the library may have written the same rules in another form.
    return tokenizer.to_str()


def _ends(files: Mapping[str, bytes]) -> list[object]:
    settings = json_text.parse(files.get(_SETTINGS, b"{}"))
    tokens = (settings.get(name) for name in ("bos_token", "eos_token"))
    return [token["content"] if isinstance(token, dict) else token for token in tokens]
