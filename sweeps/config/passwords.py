"""Finds secrets in addresses and texts. Secrets come from the environment alone; what leaves the product has *** there.

A password ends at the last @ of its address: drivers of databases take "/" and "?" in one (sqlalchemy/engine/url.py,
2.0).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from urllib.parse import unquote

from sweeps.errors import ConfigError

HIDDEN = "***"
STORE = "MLFLOW_TRACKING_URI"
"""The variable that has the whole address of the MLflow store."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'`<>\\]+")
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<name>[^:/?#]*)(?P<password>:(?!\d{1,5}(?:[/?#]|$)).*)?@")
_PARAMETER = re.compile(
    r"([?&#;](?:[^?&#;=]*(?:password|passwd|passphrase|pwd|token|secret|api_?key|access_?key|secret_?key|private_?key|"
    r"credentials?|signature|odbc_connect)|auth|key|pw|sig|pass|jwt)=)(?!\*\*\*)[^&#;]+",
    re.IGNORECASE,
)
_WORDS = {
    "token", "secret", "secrets", "passwd", "pwd", "passphrase", "credential", "credentials", "pat", "conn", "dsn",
    "jwt", "apikey", "accesskey",
}  # fmt: skip
"""Words of a variable's name that stand for a secret; `MAX_TOKENS` and `SECRETARY` have none of them."""
_KEYS = {"api", "access", "private", "secret", "account"}
"""Words that make a `KEY` behind them a secret: `AWS_ACCESS_KEY_ID`."""
_FEWEST = 6
"""Fewest letters of a variable's secret: a shorter one may be a word of any text."""


def is_secret_name(name: str) -> bool:
    """Tells whether a variable of this name holds a secret."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    pairs = set(pairwise(words))
    is_key = ("connection", "string") in pairs or not pairs.isdisjoint((word, "key") for word in _KEYS)
    return is_key or any(word in _WORDS or word.endswith(("password", "passwords")) for word in words)


def hidden(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replaces by *** what is secret in the addresses of a text, and the secrets of the environment."""
    for secret in _secrets(environment):
        text = text.replace(secret, HIDDEN)
    return _ADDRESS.sub(lambda found: _shown(found[0]), text)


def holds_secret(text: str) -> bool:
    """Tells whether an address in the text holds a password, a token or a secret parameter."""
    return hidden(text, {}) != text


def whole(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the address of a store with the secrets that `STORE` has in place of ***.

    Raises `ConfigError` if the variable has another address, or none.
    """
    if HIDDEN not in uri or uri.startswith("sqlite:///"):
        return uri
    given = environment.get(STORE, "")
    if _shown(given) != uri:
        raise ConfigError([f"tracking.uri: {uri}: give the whole address, with its password, in {STORE}"])
    return given


def shown_store(uri: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns the address that a command names, else that of `STORE` without secrets; None if there is none.

    Raises `ConfigError` if the command names a secret: all users of a machine see the words of a command.
    """
    if uri and holds_secret(uri):
        raise ConfigError([f"--tracking-uri: {refusal(uri, 'tracking.uri')}"])
    return uri or _shown(environment.get(STORE, "")) or None


def refusal(text: str, field: str) -> str:
    """Says why a text with a secret is refused, and the way out."""
    rule = "holds a password, a token or a parameter such as key=, and these come from the environment alone"
    if field == "tracking.uri":
        return f"{rule}: write {_shown(text)} here, and the whole address into {STORE}"
    if field.startswith("data."):
        return f"{rule}: leave it out, or put the address into a column of the rows"
    return f"{rule}: leave it out, and set it where Ray is started on the nodes, or in ~/.netrc"


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name in list(environment):  # another thread may change os.environ meanwhile
        value = environment.get(name, "")
        if is_secret_name(name) and name != "PWD" and len(value) >= _FEWEST:  # PWD: the shell's folder
            yield value
    if (user := _USER.match(environment.get(STORE, ""))) and (password := user["password"]):
        yield password[1:]
        yield unquote(password[1:])


def _shown(uri: str) -> str:
    return _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(_without_password, uri))


def _without_password(user: re.Match[str]) -> str:
    if user["password"]:
        return f"{user['scheme']}{user['name']}:{HIDDEN}@"
    is_web = user["scheme"].lower().endswith(("http://", "https://"))  # a name alone may be a token there
    return f"{user['scheme']}{HIDDEN}@" if is_web else user[0]
