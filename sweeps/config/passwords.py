"""URIs, and texts that hold URIs, as they may be shown: what is secret in them becomes ***. Pure.

A URI is taken apart as the clients of tracking stores do it: SQLAlchemy lets a password hold "/" and "?"
(sqlalchemy/engine/url.py, 2.0), and a person may write one unencoded in a web address as well. Where two readings are
possible, the one that hides more holds.
"""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SLASHES = re.compile(r"//")
"""The beginning of a URI without a scheme."""
_PIECES = re.compile(r"(?<=[\n\r])|(?<=[\s\"'`(\[{<,|])(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""Where the next line, or the next URI, begins in a text."""
_WORD = re.compile(r"[^\s\"'`<>]*")
_NAME = {False: re.compile(r"[^:/?#]*"), True: re.compile(r"[^:/?#\s\"'`<>]*")}
"""A user's name, or a host without a port. Key: whether the URI stands in a text, where a blank or a quote ends it."""
_AUTHORITY = {False: re.compile(r"[^/?#]*"), True: re.compile(r"[^/?#\s\"'`<>]*")}
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.%]*\]")
_PORT = re.compile(r"\d{0,5}(?=[\s\"'`<>(){}\[\],;.!|/?#\\]|$)")
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER = re.compile(r"[?&#;]([^?&#;=]*)=")
_HIDDEN_VALUE = re.compile(r"\*\*\*(?=[\s\"'`)\]}>,;.]|$)|$")
_SECRETS = ("password", "passwd", "passphrase", "pwd", "token", "secret", "apikey", "accesskey", "secretkey",
            "privatekey", "credential", "credentials", "signature", "odbcconnect", "pass", "jwt")  # fmt: skip
"""The names of secret parameters end in one of these; small letters, without dashes, underscores and brackets."""
_WHOLE_NAMES = ("auth", "key", "pw", "sig")
"""Names of secret parameters that are compared whole: names such as `sslkey`, of a file, end in them too."""


def without_password(uri: str) -> str:
    """One URI as it may be shown: its password, its token and its secret parameters become ***."""
    start = _SCHEME.match(uri) or _SLASHES.match(uri)
    return _shown(start[0], uri[start.end() :], False) if start else _shown("", uri, False)


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
    if _is_json(text):
        return _LITERAL.sub(lambda literal: _literal(literal[0]), text)
    return "".join(map(_piece, _PIECES.split(text)))


def holds_password(value: str) -> bool:
    """Whether a value, alone or in a text that it holds, is a URI with a password, a token or a secret parameter."""
    return without_password(value) != value or without_passwords(value) != value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _literal(literal: str) -> str:
    value = json.loads(literal)
    shown = without_password(value) if _SCHEME.match(value) else without_passwords(value)
    return literal if shown == value else json.dumps(shown)


def _piece(text: str) -> str:
    """A part of a text that holds one URI at most, but for those in its parameters."""
    start = _SCHEME.search(text)
    return text[: start.start()] + _shown(start[0], text[start.end() :], True) if start else text


def _shown(scheme: str, rest: str, in_text: bool) -> str:
    is_web = scheme.lower().rpartition("+")[2] in ("http://", "https://")
    user, rest = _user(rest, is_web, in_text)
    if not user and (inner := _SCHEME.search(rest)):
        return scheme + _without_parameters(rest[: inner.start()]) + _shown(inner[0], rest[inner.end() :], in_text)
    return scheme + user + _without_parameters(rest)


def _user(rest: str, is_web: bool, in_text: bool) -> tuple[str, str]:
    """The user and password before the host, as they may be shown; and the rest."""
    name = _match(_NAME[in_text], rest)
    if _IPV6.match(rest):
        return "", rest
    if is_web and "@" in name:
        # A token alone; or a name that holds an @.
        end = _match(_AUTHORITY[in_text], rest).rfind("@")
        _, host = _user(rest[end + 1 :], is_web, in_text)
        return f"{HIDDEN}@" if end else "@", host
    after = rest[len(name) + 1 :]
    end = _end_of_password(after, in_text) if rest.startswith(":", len(name)) else -1
    if end < 0:
        return "", rest
    if end > 0:
        return f"{name}:{HIDDEN}@", after[end + 1 :]
    # No password: some services take a token as the name.
    return f"{HIDDEN if is_web and name else name}:@", after[1:]


def _end_of_password(after: str, in_text: bool) -> int:
    """Where the @ is that ends it; -1 when `after` is a port, or something else."""
    if in_text and after.startswith(f"{HIDDEN}@"):
        return len(HIDDEN)
    if in_text and _PORT.match(after) and "@" not in _match(_WORD, after):
        return -1
    return after.rfind("@")


def _match(pattern: re.Pattern[str], text: str) -> str:
    """The beginning of a text that matches a pattern; it may be empty."""
    match = pattern.match(text)
    return match[0] if match else ""


def _without_parameters(rest: str) -> str:
    kept, hides = [], False
    for part in re.split(r"(?=&)", rest):
        secret = next((parameter for parameter in _PARAMETER.finditer(part) if _is_secret(parameter[1])), None)
        if secret is not None:
            hides = _HIDDEN_VALUE.match(part, secret.end()) is None
            kept.append(part[: secret.end()] + HIDDEN if hides else part)
        elif not hides or "=" in part:  # else: an & in the value
            hides = False
            kept.append(part)
    return "".join(kept)


def _is_secret(name: str) -> bool:
    plain = re.sub(r"[-_ \[\]]", "", unquote(name)).lower()
    return plain.endswith(_SECRETS) or plain in _WHOLE_NAMES
