"""Asks an OpenAI-compatible server for the log-probabilities of the tokens of given rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import requests

from sweeps.config.uris import is_web
from sweeps.errors import Failed, SweepError
from trainables.inputs import json_text
from trainables.inputs.legible import legible

START_SECONDS = 10.0
"""Seconds in which a server must accept a connection."""
ANSWER_SECONDS = 120.0
"""Seconds for which a server may be silent in one answer: a row on a busy CPU takes seconds."""
_FORCING = 1e6
"""Bias, in nats, of a token that the server must generate."""


class Server:
    """A running server: vLLM, llama.cpp's, or another with OpenAI's /v1/models and /v1/completions."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """Asks nothing yet; `key` is the API key. Raises `SweepError` if `address` is no web address."""
        if not is_web(address):
            raise SweepError(f"URL: {address} is no address of a server: give it as http://HOST:PORT")
        self._root = address.rstrip("/").removesuffix("/v1")
        self._session = requests.Session()
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def check_name(self, name: str) -> None:
        """Raises `SweepError` if no OpenAI-compatible server answers, or if it serves nothing under the name."""
        names = list(self._models)
        if name not in names:
            raise SweepError(
                f"--served-name: {self._root} serves nothing under the name {name} (it serves: "
                f"{', '.join(names) or 'nothing'}): start it with this name for the adapter, or give the one it has"
            )

    def base_of(self, name: str) -> str | None:
        """Returns the name of an adapter's base: its parent in the server's list, else the first other name, if any.

        Raises:
            SweepError: no OpenAI-compatible server answers.
        """
        others = (each for each in (self._models.get(name, {}).get("parent"), *self._models) if each != name)
        return next((each for each in others if each in self._models), None)

    @property
    def is_quantised(self) -> bool:
        """Tells whether the server says that its model is quantised: llama.cpp's server names the file's type."""
        told = (each.get("meta") for each in self._models.values())
        types = [str(each.get("ftype", "F16")) for each in told if isinstance(each, dict)]
        return not all(re.search(r"\bB?F(16|32)\b", each) for each in types)

    @cached_property
    def _models(self) -> dict[str, dict[str, Any]]:
        """Served name -> its entry in the server's list. Raises `SweepError` if no OpenAI-compatible server answers."""
        try:
            return {str(each["id"]): dict(each) for each in self._asked("GET", "/v1/models")["data"]}
        except (KeyError, TypeError, ValueError):
            raise SweepError(f"URL: {self._root} is no OpenAI-compatible server: /v1/models lists no models") from None

    def log_probabilities(self, name: str, row: Sequence[int], places: Sequence[int]) -> list[float]:
        """Returns the log-probabilities, in nats, of a row's tokens at `places`, each after all tokens before it.

        NaN for a token without a log-probability in the server's answer.

        Raises:
            SweepError: the server gives no log-probabilities, or refuses the row.
            Failed: the server fails, or does not answer in time.
        """
        if self._models.get(name, {}).get("owned_by") != "llamacpp":
            return self._echoed(name, row, places)
        # The prompt cache may hold another adapter's tokens (llama.cpp's issue 26207): only the row's own are used.
        return [self._generated(name, row[: place + 1], is_cached=place != places[0]) for place in places]

    def _echoed(self, name: str, row: Sequence[int], places: Sequence[int]) -> list[float]:
        """Asks as lm-evaluation-harness's local-completions does (lm_eval/models/openai_completions.py, 0.4.13).

        The prompt's tokens are echoed with their log-probabilities. One token is generated, since vLLM wants one.
        """
        logprobs = self._completed(name, row, {"echo": True})
        with suppress(KeyError, IndexError, TypeError, ValueError):
            told = logprobs["token_logprobs"]
            if len(told) >= len(row):  # fewer log-probabilities are those of the answer alone
                return [float(told[place]) for place in places]
        raise SweepError(
            f"URL: {self._root} gives no log-probabilities of a prompt (echo with logprobs in /v1/completions): vLLM "
            "and SGLang do, and llama.cpp's server is asked otherwise"
        )

    def _generated(self, name: str, row: Sequence[int], is_cached: bool) -> float:
        """Has llama.cpp's server generate the last token of a row: it gives no log-probabilities of a prompt.

        A bias forces the token. The returned log-probability is the model's own, before bias and sampling
        (`populate_token_probs` in its tools/server/server-context.cpp). The server gives none, here NaN, for a token
        whose character later tokens complete.
        """
        *before, token = row
        forced = {"logit_bias": [[token, _FORCING]], "post_sampling_probs": False, "cache_prompt": is_cached}
        logprobs = self._completed(name, before, forced)
        if logprobs is None:
            return math.nan
        with suppress(KeyError, IndexError, TypeError, ValueError):
            told = logprobs["content"][0]
            if told["id"] == token:
                return float(told["logprob"])
        raise SweepError(f"URL: {self._root} does not generate the token {token} that it has to: is its base another?")

    def _completed(self, name: str, prompt: Sequence[int], asked: Mapping[str, Any]) -> Any:
        """Returns `logprobs` of the answer to a prompt; None if there are none."""
        body = {"model": name, "prompt": list(prompt), "max_tokens": 1, "temperature": 0.0, "logprobs": 1, **asked}
        answer = self._asked("POST", "/v1/completions", body)
        with suppress(KeyError, IndexError, TypeError):
            return answer["choices"][0]["logprobs"]
        return None

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Returns the JSON of an answer.

        Raises:
            SweepError: no server listens, or it refuses the request or answers no JSON.
            Failed: the server does not answer in time, or fails (5xx).
        """
        try:
            answer = self._session.request(
                method, self._root + path, json=body, timeout=(START_SECONDS, ANSWER_SECONDS), allow_redirects=False
            )
        except requests.exceptions.Timeout:
            raise Failed(
                f"URL: {self._root} took more than {START_SECONDS:.0f} seconds to accept a connection, or was silent "
                f"for more than {ANSWER_SECONDS:.0f}: look at its log"
            ) from None
        except (requests.exceptions.RequestException, ValueError):
            raise SweepError(
                f"URL: no server answers at {self._root}: start it, or give its address as http://HOST:PORT"
            ) from None
        if answer.status_code in (401, 403):
            raise SweepError(
                f"URL: {self._root} wants another API key: set OPENAI_API_KEY, or name its variable with --api-key-env"
            )
        if answer.status_code != 200:
            is_page = answer.content.lstrip().startswith(b"<")
            said = "a web page" if is_page else legible(answer.content.decode(errors="replace"), 300)
            error = Failed if answer.status_code >= 500 else SweepError
            raise error(f"URL: {self._root}{path} answers {answer.status_code}: {said}")
        try:
            return json_text.parse(answer.content)
        except ValueError:
            raise SweepError(f"URL: {self._root} is no OpenAI-compatible server: {path} answers no JSON") from None
