"""Replaces secrets by *** in URIs, and in texts that hold URIs. Pure.

A password of a tracking store may hold "/", "?" and "@" unencoded (sqlalchemy/engine/url.py, 2.0, takes the first two).
If a URI can be read in two ways, the reading that hides more counts: a password ends at the last @. SQLAlchemy's own
`make_url` ends the password at the first @, rewrites the URI, and takes a third of a second to import.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from urllib.parse import unquote

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,40}://"
_ENDS = "\\s\"'`<>"
"""Characters that end a URI in a text, outside of passwords."""
_SCHEME_OR_NONE = re.compile(rf"^(?:{_SCHEME}|//|)")
_PIECE = re.compile(rf"({_SCHEME})([^\n\r]*?)(?=[\n\r]|\Z|(?<=[\s\"'`(\[{{<,|]){_SCHEME})")
"""A URI in a text, with the text after it up to the end of the line or the next URI."""
_PORT = re.compile(rf":\d{{0,5}}(?:[(){{}}\[\],;.!|/?#\\][^{_ENDS}@]*)?(?=[{_ENDS}]|$)")
"""A port, and the rest of its URI without an @."""
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER = re.compile(r"[?&#;]([^?&#;=]*)=")
_VALUE = re.compile(r"[^&]*(?:&[^&=]*(?=&|$))*")
"""The value of a parameter; includes parts behind an & that have no name."""
_HIDDEN_VALUE = re.compile(r"\*\*\*(?=[\s\"'`)\]}>,;.]|$)|$")
_SECRETS = ("password", "passwd", "passphrase", "pwd", "token", "secret", "apikey", "accesskey", "secretkey",
            "privatekey", "credential", "credentials", "signature", "odbcconnect", "pass", "jwt")  # fmt: skip
"""Endings of the names of secret parameters, in small letters without dashes, underscores, blanks and brackets."""
_WHOLE_NAMES = ("auth", "key", "pw", "sig")
"""Whole names of secret parameters. They are no endings, because names such as `sslkey`, of a file, end in them too."""


def without_password(uri: str) -> str:
    """Replaces the password, the token and the secret parameters of one URI by ***."""
    scheme = _SCHEME_OR_NONE.findall(uri)[0]
    return _shown(scheme, uri.removeprefix(scheme), "")


def without_passwords(text: str, known: str = "") -> str:
    """Replaces the secrets in all URIs of a text by ***.

    JSON stays JSON: a string in JSON that begins like a URI is one URI to its end.

    The end of a password is not always known, so the text behind it on the line may be lost. A password that begins
    like a port and goes on with a blank or a quote (`http://user:12 34@host`) is taken for a port, except in the URI
    `known`.
    """
    if known:
        text = text.replace(known, without_password(known))
    if "://" not in text:
        return text
    with suppress(ValueError, RecursionError):
        json.loads(text)
        return _LITERAL.sub(lambda literal: _literal(literal[0]), text)
    return _PIECE.sub(lambda piece: _shown(piece[1], piece[2], _ENDS), text)


def _literal(literal: str) -> str:
    value = json.loads(literal)
    shown = without_password(value) if re.match(_SCHEME, value) else without_passwords(value)
    return literal if shown == value else json.dumps(shown)


def _shown(scheme: str, rest: str, ends: str) -> str:
    """Replaces the secrets of a URI. `ends` are characters that end a URI in a text; empty if `rest` is the URI."""
    before = ""
    while (shown := _without_user(scheme, rest, ends)) == rest and (inner := re.search(_SCHEME, rest)):
        before += scheme + _without_parameters(rest[: inner.start()])
        scheme, rest = inner[0], rest[inner.end() :]
    return before + scheme + _without_parameters(shown)


def _without_user(scheme: str, rest: str, ends: str) -> str:
    """Replaces the password in the text after the scheme; on the web also a user name, which may be a token."""
    is_web = scheme.lower().endswith(("http://", "https://"))
    name = re.split(rf"[:/?#{ends}]", rest, maxsplit=1)[0]
    after = rest[len(name) :]
    end = _end_of_password(after, bool(ends))
    if end > 1:
        return f"{HIDDEN if is_web and '@' in name else f'{name}:{HIDDEN}'}{after[end:]}"
    if is_web and name and (end == 1 or "@" in name):
        return HIDDEN + name[name.rfind("@") :] * (end < 0) + after
    return rest


def _end_of_password(after: str, in_text: bool) -> int:
    """Returns the position of the @ that ends the password; -1 if `after` is a port or no password."""
    if in_text and after.startswith(f":{HIDDEN}@"):
        return len(HIDDEN) + 1
    return -1 if not after.startswith(":") or (in_text and _PORT.match(after)) else after.rfind("@")


def _without_parameters(rest: str) -> str:
    kept, end = "", 0
    for parameter in _PARAMETER.finditer(rest):
        plain = re.sub(r"[-_ \[\]]", "", unquote(parameter[1])).lower()
        is_secret = plain.endswith(_SECRETS) or plain in _WHOLE_NAMES
        if is_secret and parameter.start() >= end and (value := _VALUE.match(rest, parameter.end())):
            kept += rest[end : parameter.end()] + (value[0] if _HIDDEN_VALUE.match(value[0]) else HIDDEN)
            end = value.end()
    return kept + rest[end:]
