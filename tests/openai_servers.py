"""A web server that answers as OpenAI-compatible servers do: `import openai_servers`.

tests/serving pins it: the same client reads the same numbers from a real vLLM.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Likely = Callable[[Sequence[int]], Sequence[float]]
"""The tokens of a row -> the log-probability of each; that of the first counts for nothing."""


@contextmanager
def serving(models: Mapping[str, Likely], key: str = "", echoes: bool = True) -> Iterator[str]:
    """Its address while the block runs.

    Args:
        models: served name -> what it answers.
        key: the API key that it wants.
        echoes: whether it gives the log-probabilities of a prompt; llama.cpp's llama-server gives those of the answer.
    """

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self._may() and self.path == "/v1/models":
                self._answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._may():
                return
            if self.path != "/v1/completions" or asked["model"] not in models:
                self._answer(404, {"error": {"message": f"The model `{asked['model']}` does not exist.", "code": 404}})
                return
            assert (asked["echo"], asked["logprobs"], asked["max_tokens"]) == (True, 1, 1)
            told = [None, *models[asked["model"]](asked["prompt"])[1:], -0.5] if echoes else [-0.5]
            logprobs = {"token_logprobs": told, "tokens": ["x"] * len(told), "text_offset": [0] * len(told)}
            choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": logprobs}
            self._answer(200, {"object": "text_completion", "model": asked["model"], "choices": [choice]})

        def _may(self) -> bool:
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                self._answer(401, {"error": "Unauthorized"})
                return False
            return True

        def _answer(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
