"""The client of a server: what it reads, and what each thing that is no such server is told as."""

from __future__ import annotations

import json
import math
import socket

import openai_servers
import pytest
import web_servers

from sweeps.errors import Failed, SweepError
from sweeps.promotion import openai_client
from sweeps.promotion.openai_client import Server

LLAMA_CPP = {"owned_by": "llamacpp"}


def sums(row):
    """Minus the sum of the row up to each token."""
    return [-float(sum(row[: place + 1])) for place in range(len(row))]


def test_the_log_probabilities_of_places_are_read():
    with openai_servers.serving({"tickets-v3": sums}, key="secret-7") as address:
        asked = Server(f"{address}/v1/", "secret-7")
        asked.check_name("tickets-v3")
        assert asked.log_probabilities("tickets-v3", (5, 8, 2, 6), (1, 3)) == [-13.0, -21.0]
        with pytest.raises(SweepError, match=r"nothing under the name tickets-v4 \(it serves: tickets-v3\)"):
            asked.check_name("tickets-v4")
        with pytest.raises(SweepError, match="set OPENAI_API_KEY") as error:
            Server(address, "secret-8").check_name("tickets-v3")
        assert "secret" not in str(error.value)
    # llama.cpp's server generates the token of each place.
    with openai_servers.serving({"tickets-v3": sums}, listed=LLAMA_CPP) as address:
        assert Server(address).log_probabilities("tickets-v3", (5, 8, 2, 6, 1), (1, 2, 4)) == [-13.0, -15.0, -22.0]


def test_a_token_that_llama_cpp_tells_nothing_of_is_no_number_and_another_token_is_refused():
    def asked(logprobs: object) -> list[float]:
        listed = {"data": [{"id": "a", **LLAMA_CPP}], "choices": [{"logprobs": logprobs}]}
        with web_servers.answering(200, json.dumps(listed)) as address:
            return Server(f"http://{address}").log_probabilities("a", (5, 8, 2), (1,))

    assert math.isnan(asked(None)[0])
    with pytest.raises(SweepError, match="does not generate the token 8 that it has to"):
        asked({"content": [{"id": 3}]})


def test_llama_cpp_says_whether_its_model_is_quantised():
    plain: tuple[object, ...] = (None, {}, "x", {"ftype": "(guessed) all F32"}, {"ftype": "BF16"})
    for meta in (*plain, {"ftype": "Q4_K - Medium"}, {"ftype": "MXFP4 MoE"}):
        with openai_servers.serving({"a": sums}, listed={**LLAMA_CPP, "meta": meta}) as address:
            assert Server(address).is_quantised == (meta not in plain), meta


@pytest.mark.parametrize(
    ("listed", "base"),
    [
        ([{"id": "a"}], None),
        ([{"id": "smol"}, {"id": "a"}], "smol"),
        ([{"id": "b", "parent": "smol"}, {"id": "a", "parent": "smol"}, {"id": "smol", "parent": None}], "smol"),
        ([{"id": "a", "parent": "gone"}], None),
    ],
)
def test_the_base_of_an_adapter_is_its_parent_else_another_name(listed, base):
    with web_servers.answering(200, json.dumps({"data": listed})) as address:
        assert Server(f"http://{address}").base_of("a") == base


def test_a_server_that_has_log_probabilities_of_answers_only_is_refused():
    with (
        openai_servers.serving({"a": sums}, echoes=False) as address,
        pytest.raises(SweepError, match="gives no log-probabilities of a prompt"),
    ):
        Server(address).log_probabilities("a", (5, 8, 2), (1,))


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, "<html>", "is no OpenAI-compatible server: /v1/models answers no JSON"),
        (200, '["x"]', "is no OpenAI-compatible server: /v1/models lists no models"),
        (404, "<!DOCTYPE html><p>none", r"/v1/models answers 404: a web page"),
        (404, "not \x1b[31mfound", r"/v1/models answers 404: not \\x1b"),
        (302, "", "answers 302"),
        (500, '{"error": "engine dead"}', r"answers 500: .*engine dead"),
    ],
)
def test_another_server_is_refused_and_one_that_fails_is_no_mistake(status, body, told):
    with web_servers.answering(status, body) as address, pytest.raises(SweepError, match=told) as error:
        Server(f"http://{address}").check_name("a")
    assert error.value.exit_code == (1 if status == 500 else 2)


@pytest.mark.parametrize("address", ["localhost:8000", "tickets", "http://", "http://127.0.0.1:1", "http://[::"])
def test_an_address_that_is_no_server_is_refused(address):
    with pytest.raises(SweepError, match=r"^URL: .*give it.* as http://HOST:PORT") as error:
        Server(address).check_name("a")
    assert error.value.exit_code == 2


def test_a_server_that_is_silent_is_left(monkeypatch):
    monkeypatch.setattr(openai_client, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Failed, match="was silent"):
        Server(f"http://127.0.0.1:{silent.getsockname()[1]}").check_name("a")
