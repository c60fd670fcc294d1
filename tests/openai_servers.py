"""A web server that answers as OpenAI-compatible servers do: `import openai_servers`.

tests/serving pins it: the same client reads the same numbers from a real vLLM, and from a real llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import web_servers

Likely = Callable[[Sequence[int]], Sequence[float]]
"""The tokens of a row -> the log-probability of each; that of the first counts for nothing."""


@contextmanager
def serving(
    models: Mapping[str, Likely], key: str = "", echoes: bool = True, listed: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Its address while the block runs.

    Args:
        models: served name -> what it answers.
        key: the API key that it wants.
        echoes: whether it gives the log-probabilities of a prompt.
        listed: what it lists of each model besides the name; llama.cpp's server, by `owned_by`, generates what it must.
    """
    listed = listed or {}

    def answer(request: web_servers.Request) -> tuple[int, str]:
        if key and request.key != f"Bearer {key}":
            return 401, '{"error": "Unauthorized"}'
        if request.path == "/v1/models":
            return 200, json.dumps({"object": "list", "data": [{"id": name, **listed} for name in models]})
        asked = json.loads(request.body)
        if request.path != "/v1/completions" or asked["model"] not in models:
            return 404, f'{{"error": {{"message": "The model `{asked["model"]}` does not exist.", "code": 404}}}}'
        likely = models[asked["model"]]
        assert (asked["logprobs"], asked["temperature"], asked["max_tokens"]) == (1, 0, 1)
        told = _generated(asked, likely) if listed.get("owned_by") == "llamacpp" else _echoed(asked, likely, echoes)
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": told}
        return 200, json.dumps({"object": "text_completion", "model": asked["model"], "choices": [choice]})

    with web_servers.answering_by(answer) as address:
        yield f"http://{address}"


def _echoed(asked: Mapping[str, Any], likely: Likely, echoes: bool) -> dict[str, Any]:
    assert asked["echo"]
    told = [None, *likely(asked["prompt"])[1:], -0.5] if echoes else [-0.5]
    return {"token_logprobs": told, "tokens": ["x"] * len(told), "text_offset": [0] * len(told)}


def _generated(asked: Mapping[str, Any], likely: Likely) -> dict[str, Any]:
    ((token, bias),) = asked["logit_bias"]
    assert bias > 1e3
    return {"content": [{"id": token, "logprob": likely([*asked["prompt"], token])[-1]}]}
