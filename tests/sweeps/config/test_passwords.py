"""What is secret in a URI is not shown, wherever the URI stands; and nothing else is changed."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sweeps.config.passwords import without_password, without_passwords

SECRETS = [
    ("https://token@host:5000/a", "https://***@host:5000/a"),
    ("http://user:secret@host:5000/a?b=c", "http://user:***@host:5000/a?b=c"),
    ("https://secret:@host", "https://***:@host"),
    ("http://user:a/b@host/c", "http://user:***@host/c"),
    ("http://us@er:a/b@host", "http://***@host"),
    ("postgresql://u@v:secret@host/db", "postgresql://u@v:***@host/db"),
    ("postgresql://host/db?user=u&password=secret&a=b", "postgresql://host/db?user=u&password=***&a=b"),
    ("https://host/?key=x&pass=y", "https://host/?key=***&pass=***"),
    ("https://host/?password%5B%5D=x", "https://host/?password%5B%5D=***"),
    ("https://host/#access_token=x&a=b", "https://host/#access_token=***&a=b"),
    ("https://host/?pass%77ord=x", "https://host/?pass%77ord=***"),
    ("postgresql://host/db?sslpassword=a&b", "postgresql://host/db?sslpassword=***"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BPWD%3Dy", "mssql+pyodbc:///?odbc_connect=***"),
    ("https://host/?next=http://u:p@h/x", "https://host/?next=http://u:***@h/x"),
    ("jdbc:sqlserver://host;user=u;password=x", "jdbc:sqlserver://host;user=u;password=***"),
]
PLAIN = [
    "sqlite:////home/a:b/c@d.db",
    "sqlite:///mlflow.db?timeout=60",
    "http://127.0.0.1:5000",
    "https://host/path@v1:x",
    "https://host/?metric_key=eval_loss&max_tokens=5",
    "http://[::1]:5000",
    "postgresql://u@host:5432/db",
    "postgresql://host/db?sslkey=/a/b&sslmode=require",
    "databricks://profile",
    "s3://bucket/a@b",
    "",
]


@pytest.mark.parametrize(("uri", "shown"), SECRETS)
def test_what_is_secret_in_a_uri_is_not_shown(uri, shown):
    assert without_password(uri) == shown
    assert without_passwords(uri) == shown
    assert without_passwords(f"MLflow ({uri})") in (f"MLflow ({shown})", f"MLflow ({shown}".removesuffix(")"))
    assert json.loads(without_passwords(json.dumps({"a": [uri], "b": "c@d"}))) == {"a": [shown], "b": "c@d"}
    assert without_password(shown) == without_passwords(shown) == shown


@pytest.mark.parametrize("uri", PLAIN)
def test_a_uri_without_a_secret_is_shown_as_it_is(uri):
    assert without_password(uri) == without_passwords(uri) == uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://a:b@c and http://d:e@f", "see http://a:***@c and http://d:***@f"),
        ("http://host:5000 is down: ask a@b.org", "http://host:5000 is down: ask a@b.org"),
        ("http://a:b@c\nask a@b.org", "http://a:***@c\nask a@b.org"),
        ("at 'http://a:b@c', 'http://d'", "at 'http://a:***@c', 'http://d'"),
        ("'postgres://h/db?password=***' must be a server", "'postgres://h/db?password=***' must be a server"),
        ("to http://a:***@c: ask a@b.org", "to http://a:***@c: ask a@b.org"),
        ('{"a":"http://h:5000","b":"c@d"}', '{"a":"http://h:5000","b":"c@d"}'),
        ("no address, a@b: c://", "no address, a@b: c://"),
    ],
)
def test_a_text_loses_the_secrets_of_its_uris_and_nothing_else(text, shown):
    assert without_passwords(text) == shown


def test_a_password_with_blanks_and_quotes_is_hidden_where_its_uri_is_known():
    uri = """http://user:12 3"4'@host"""
    assert without_password(uri) == "http://user:***@host"
    assert without_passwords(f"cannot reach {uri}: refused", uri) == "cannot reach http://user:***@host: refused"


def test_a_uri_that_lacks_its_scheme_is_read_as_one():
    assert without_password("user:secret@host:5000") == "user:***@host:5000"
    assert without_password("//user:secret@host:5000") == "//user:***@host:5000"
    assert "secret" not in without_password("http:/user:secret@host:5000")


@pytest.mark.parametrize("depth", [1, 100_000])
def test_json_in_json_stays_json(depth):
    inner = json.dumps({"uri": 'http://u:a"b@h'})
    text = "[" * depth + json.dumps({"config": inner}) + "]" * depth
    shown = without_passwords(text)
    assert 'a\\"b' not in shown and 'a"b' not in shown
    if depth == 1:
        assert json.loads(json.loads(shown)[0]["config"]) == {"uri": "http://u:***@h"}


MARK = "s3cr3t"
"""Stands in every secret, so that what is left of it is found."""
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LINE = ANY.filter(lambda text: not re.search(r"[\r\n]|://", text))
SCHEMES = st.sampled_from(["http", "HTTP", "https", "postgresql", "postgresql+psycopg2", "mysql", "mssql+pyodbc", "x"])
USERS = st.text(st.characters(exclude_characters=":/?#@", exclude_categories=["Cs", "Z", "C", "P"]), max_size=4)
PARAMETERS = st.sampled_from(
    ["password", "access_token", "api_key", "odbc_connect", "PWD", "sslpassword", "client-secret"]
)
PLACES = st.sampled_from(
    ["{}", "MLflow ({}): no answer", "tried {}\nand again", "{} and http://other:5000", "'{}' is down"]
)


def secret(before: str, after: str) -> str:
    return before + MARK + after


@given(SCHEMES, USERS, ANY, ANY)
@example("http", "user", "1/", "")
@example("HTTP", "user", "?", "#")
@example("postgresql", "", "://", "\n")
def test_no_password_survives_in_a_uri(scheme, user, before, after):
    uri = f"{scheme}://{user}:{secret(before, after)}@host:5000/path"
    shown = without_password(uri)
    assert shown == f"{scheme}://{user}:***@host:5000/path"
    assert without_password(shown) == shown
    assert MARK not in without_passwords(f"at {uri}: no answer", uri)
    kept = json.dumps({"tracking": {"uri": uri}})
    assert json.loads(without_passwords(kept)) == {"tracking": {"uri": shown}}


@given(SCHEMES, LINE, LINE, PLACES)
def test_no_password_survives_in_a_text(scheme, before, after, place):
    password = secret(before, after)
    # Not told from a port: see `without_passwords`.
    assume(not re.match(r"\d{0,5}[^\w%@:*+=&~$^-]", password))
    shown = without_passwords(place.format(f"{scheme}://user:{password}@host/path"))
    assert MARK not in shown
    assert without_passwords(shown) == shown


@given(SCHEMES, PARAMETERS, LINE, LINE, PLACES)
def test_no_secret_parameter_survives(scheme, name, before, after, place):
    value = secret(before, after)
    # To drivers, name=value behind an & is another parameter.
    assume("&" not in value)
    uri = f"{scheme}://host/db?a=b&{name}={value}&c=d"
    assert without_password(uri) == f"{scheme}://host/db?a=b&{name}=***&c=d"
    assert MARK not in without_passwords(place.format(uri))


@given(st.sampled_from(["http", "HTTPS", "git+https"]), LINE, PLACES)
def test_no_token_survives_in_place_of_a_name(scheme, after, place):
    assume(not re.search(r"[:/?#\s\"'`<>]", after))
    uri = f"{scheme}://{MARK}{after}@host/path"
    assert without_password(uri) == f"{scheme}://***@host/path"
    assert MARK not in without_passwords(place.format(uri))


@given(st.text(max_size=40), st.sampled_from(PLAIN), st.text(max_size=40))
def test_a_text_without_secrets_is_not_changed(before, uri, after):
    assume(not re.search(r"[@&?#;=]|://", before + after))
    text = f"{before} {uri} {after}"
    assert without_passwords(text) == text
    assert without_passwords(json.dumps({"text": text})) == json.dumps({"text": text})
