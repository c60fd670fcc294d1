"""Asks an OpenAI-compatible server how likely it finds the tokens of given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests

from sweeps.config.uris import is_web
from sweeps.errors import Failed, SweepError
from trainables.inputs import json_text
from trainables.inputs.legible import legible

START_SECONDS = 10.0
"""How long a server may take to accept a connection."""
ANSWER_SECONDS = 120.0
"""How long it may be silent in one answer: a row on a busy CPU takes seconds."""
_SHOWN = 20
"""Served names that a message lists at most."""


class Server:
    """A server that runs: vLLM, or another with OpenAI's /v1/models and /v1/completions."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """The server of an address; `key` is its API key. Raises `SweepError` for what is no address."""
        if not is_web(address):
            raise SweepError(f"URL: {address} is no address of a server: give it as http://HOST:PORT")
        self._root = address.rstrip("/").removesuffix("/v1")
        self._session = requests.Session()
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def check_name(self, name: str) -> None:
        """Raises `SweepError` when no OpenAI-compatible server is there, or it serves nothing under the name."""
        names = list(self._models())
        if name not in names:
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
            raise SweepError(
                f"--served-name: {self._root} serves nothing under the name {name} (it serves: {shown or 'nothing'}): "
                "start it with this name for the adapter, or give the name that it has"
            )

    def base_of(self, name: str) -> str | None:
        """The name of the base of an adapter: what the server lists as its parent, else the first other name, if any.

        Raises:
            SweepError: no OpenAI-compatible server is there.
        """
        models = self._models()
        others = (each for each in (models.get(name), *models) if each in models and each != name)
        return next(others, None)

    def _models(self) -> dict[str, str | None]:
        """Served name -> the base that vLLM gives for an adapter. Raises `SweepError` when no such server is there."""
        try:
            return {str(each["id"]): each.get("parent") for each in self._asked("GET", "/v1/models")["data"]}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise SweepError(f"URL: {self._root} is no OpenAI-compatible server: /v1/models lists no models") from None

    def log_probabilities(self, name: str, row: Sequence[int], places: Sequence[int]) -> list[float]:
        """The log-probabilities, in nats, of the tokens of a row at some places, each after all tokens before it.

        The request is that of lm-evaluation-harness's local-completions (lm_eval/models/openai_completions.py, 0.4.13):
        the prompt's tokens are echoed with their log-probabilities. One token is generated, since vLLM wants one.

        Raises:
            SweepError: the server has no log-probabilities of a prompt, or refuses the row.
            Failed: it fails, or does not answer in time.
        """
        asked = {"model": name, "prompt": list(row), "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        answer = self._asked("POST", "/v1/completions", asked)
        try:
            told = answer["choices"][0]["logprobs"]["token_logprobs"]
            if len(told) >= len(row):  # fewer are those of the answer alone
                return [float(told[place]) for place in places]
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise SweepError(
            f"URL: {self._root} gives no log-probabilities of a prompt (echo with logprobs in /v1/completions): vLLM "
            "and llama-cpp-python with logits_all do; llama.cpp's own llama-server gives those of generated tokens only"
        )

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of an answer. Raises `SweepError` when it is refused or is no JSON, `Failed` when there is none."""
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
