"""What is secret in an address is not shown, wherever the address stands; and nothing else is changed."""

from __future__ import annotations

import json
import re
from collections import UserDict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sweeps.config.passwords import STORE, hidden, holds_secret, shown_store, whole
from sweeps.errors import ConfigError

SECRETS = [
    ("https://token@host:5000/a", "https://***@host:5000/a"),
    ("http://user:secret@host:5000/a?b=c", "http://user:***@host:5000/a?b=c"),
    ("git+https://token@host/a", "git+https://***@host/a"),
    ("http://user:a/b@host/c", "http://user:***@host/c"),
    ("postgresql://u@v:secret@host/db", "postgresql://u@v:***@host/db"),
    ("postgresql://host/db?user=u&password=secret&a=b", "postgresql://host/db?user=u&password=***&a=b"),
    ("https://host/?key=x&pass=y", "https://host/?key=***&pass=***"),
    ("https://host/#access_token=x&a=b", "https://host/#access_token=***&a=b"),
    ("https://host/x?X-Amz-Signature=ab12", "https://host/x?X-Amz-Signature=***"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BPWD%3Dy", "mssql+pyodbc:///?odbc_connect=***"),
    ("jdbc:sqlserver://host;user=u;password=x", "jdbc:sqlserver://host;user=u;password=***"),
]
PLAIN = [
    "sqlite:////home/a:b/c@d.db",
    "sqlite:///mlflow.db?timeout=60",
    "http://127.0.0.1:5000",
    "https://host/path@v1:x",
    "https://host:8443/path@v1",
    "https://host/?metric_key=eval_loss&max_tokens=5",
    "http://[::1]:5000",
    "postgresql://u@host:5432/db",
    "postgresql://host/db?sslkey=/a/b&sslmode=require",
    "databricks://profile",
    "s3://bucket/a@b",
    "no address, a@b: c://",
    "",
]


@pytest.mark.parametrize(("uri", "shown"), SECRETS)
def test_what_is_secret_in_an_address_is_not_shown(uri, shown):
    assert hidden(uri, {}) == shown == hidden(shown, {})
    assert holds_secret(uri) and not holds_secret(shown)
    assert hidden(f"tried '{uri}' and a@b.org", {}) == f"tried '{shown}' and a@b.org"
    assert json.loads(hidden(json.dumps({"a": [uri], "b": "c@d"}), {})) == {"a": [shown], "b": "c@d"}


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_a_secret_is_shown_as_it_is(uri):
    assert hidden(uri, {}) == uri


WORD = st.text(st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="\"'`<>\\"), max_size=8)
SCHEMES = st.sampled_from(["http", "HTTP", "https", "postgresql", "mysql", "mssql+pyodbc", "x"])


@given(SCHEMES, WORD, WORD)
@example("http", "1/", "")
@example("postgresql", "", "://")
def test_no_password_survives_in_a_text(scheme, before, after):
    if re.match(r"\d{1,5}[/?#]", before):  # a port
        before = "x" + before
    uri = f"{scheme}://user:{before}s3cr3t{after}@host/path"
    assert hidden(f"at {uri}: no answer", {}) == f"at {scheme}://user:***@host/path: no answer"


def test_the_secrets_of_the_environment_are_hidden_in_every_text():
    store = """http://me:se%2Fcr%40t@host"""
    environment = {
        STORE: store,
        "HF_TOKEN": "hf_abcdef",
        "MAX_TOKENS": "wanted",
        "API_KEY": "short",
        "PWD": "/a/folder",
    }
    text = f"Basic me:se/cr@t of {store}; hf_abcdef is wanted, in short /a/folder"
    assert hidden(text, environment) == "Basic me:*** of http://me:***@host; *** is wanted, in short /a/folder"


def test_an_environment_may_change_while_it_is_read():
    class Environment(UserDict):
        def __iter__(self):
            names = list(self.data)
            del self.data["GONE_TOKEN"]
            yield from names

    assert hidden("tell abcdefgh", Environment(GONE_TOKEN="12345678", MY_TOKEN="abcdefgh")) == "tell ***"


@pytest.mark.parametrize(
    ("kept", "given"),
    [
        ("postgresql://me:***@host/db", "postgresql://me:sec/ret@host/db"),
        ("postgresql://host/db?password=***&a=b", "postgresql://host/db?password=secret&a=b"),
    ],
)
def test_the_secret_of_a_store_comes_from_the_environment(kept, given):
    assert whole(kept, {STORE: given}) == given
    assert shown_store(None, {STORE: given}) == shown_store(kept, {STORE: "http://other"}) == kept
    with pytest.raises(ConfigError, match=f"tracking.uri: .*: give the whole address, with its password, in {STORE}"):
        whole(kept, {STORE: "http://host"})
    with pytest.raises(ConfigError, match="--tracking-uri: holds a password") as wrong:
        shown_store(given, {})
    assert kept in str(wrong.value) and "ret" not in str(wrong.value).replace("secrets", "")
    assert whole("sqlite:////a***b.db", {}) == "sqlite:////a***b.db"
    assert shown_store(None, {}) is None
