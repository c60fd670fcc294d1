"""Web servers on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What a server was asked."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def key(self) -> str:
        """What the header Authorization says."""
        return self.headers.get("Authorization", "")


class Answer(NamedTuple):
    """What a server says; with the status 0 the connection breaks."""

    status: int
    body: str | bytes
    headers: Mapping[str, str] = {}


@contextmanager
def answering_by(answer: Callable[[Request], tuple[int, str] | Answer], **headers: str) -> Iterator[str]:
    """HOST:PORT of a server that gives each request this answer, with `headers`, while the block runs."""

    class Answers(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, more = Answer(*answer(Request(self.command, self.path, self.headers, sent)))
            if not status:
                return
            content = body if isinstance(body, bytes) else body.encode()
            self.send_response(status)
            for name, value in {**headers, **more, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - names that http.server calls

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
