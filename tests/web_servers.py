"""Web servers on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What a server was asked."""

    path: str
    key: str
    """What the header Authorization says."""
    body: bytes


@contextmanager
def answering_by(answer: Callable[[Request], tuple[int, str]], **headers: str) -> Iterator[str]:
    """HOST:PORT of a server that gives each request this status and body, with `headers`, while the block runs."""

    class Answers(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, told = answer(Request(self.path, self.headers.get("Authorization", ""), body))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(told.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told.encode())

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - names that http.server calls

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def answering(status: int, body: str) -> AbstractContextManager[str]:
    """The same with one answer to everything."""
    return answering_by(lambda _request: (status, body))
