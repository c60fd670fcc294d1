"""URIs, and texts that hold URIs, as they may be shown: what is secret in them becomes ***. Pure.

A password of a tracking store may hold "/", "?" and "@" unencoded (sqlalchemy/engine/url.py, 2.0, takes the first two).
Where two readings are possible, the one that hides more holds: a password ends at the last @. SQLAlchemy's own
`make_url` ends it at the first @, rewrites what it shows, and takes a third of a second to import.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from urllib.parse import unquote

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,40}://"
_ENDS = "\\s\"'`<>"
"""What ends a URI in a text, if no password holds it."""
_SCHEME_OR_NONE = re.compile(rf"^(?:{_SCHEME}|//|)")
_PIECE = re.compile(rf"({_SCHEME})([^\n\r]*?)(?=[\n\r]|\Z|(?<=[\s\"'`(\[{{<,|]){_SCHEME})")
"""A URI in a text, and what follows it up to the end of the line or the next URI."""
_PORT = re.compile(rf":\d{{0,5}}(?:[(){{}}\[\],;.!|/?#\\][^{_ENDS}@]*)?(?=[{_ENDS}]|$)")
"""A port, and the rest of its URI without an @."""
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER = re.compile(r"[?&#;]([^?&#;=]*)=")
_VALUE = re.compile(r"[^&]*(?:&[^&=]*(?=&|$))*")
"""The value of a parameter. What has no name behind an & belongs to it."""
_HIDDEN_VALUE = re.compile(r"\*\*\*(?=[\s\"'`)\]}>,;.]|$)|$")
_SECRETS = ("password", "passwd", "passphrase", "pwd", "token", "secret", "apikey", "accesskey", "secretkey",
            "privatekey", "credential", "credentials", "signature", "odbcconnect", "pass", "jwt")  # fmt: skip
"""The names of secret parameters end in one of these; small letters, without dashes, underscores and brackets."""
_WHOLE_NAMES = ("auth", "key", "pw", "sig")
"""Names of secret parameters that are compared whole: names such as `sslkey`, of a file, end in them too."""


def without_password(uri: str) -> str:
    """One URI as it may be shown: its password, its token and its secret parameters become ***."""
    scheme = _SCHEME_OR_NONE.findall(uri)[0]
    return _shown(scheme, uri.removeprefix(scheme), "")


def without_passwords(text: str, known: str = "") -> str:
    """A text as it may be shown: in each URI of it, secrets become ***.

    JSON stays JSON: a string in it that begins as a URI is taken as one URI to its end.

    Where a password ends is not always known: the line may lose what follows it. A password that begins as a port does
    and goes on with a blank or a quote (`http://user:12 34@host`) is not told from a port, except in the URI `known`.
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
    """A URI as it may be shown. `ends` is what ends a URI in a text; empty where all of `rest` is the URI."""
    before = ""
    while (shown := _without_user(scheme, rest, ends)) == rest and (inner := re.search(_SCHEME, rest)):
        before += scheme + _without_parameters(rest[: inner.start()])
        scheme, rest = inner[0], rest[inner.end() :]
    return before + scheme + _without_parameters(shown)


def _without_user(scheme: str, rest: str, ends: str) -> str:
    """What follows the scheme, without the password, and on the web without a name that may be a token."""
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
    """Where the @ is that ends it; -1 when `after` is a port, or something else."""
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
