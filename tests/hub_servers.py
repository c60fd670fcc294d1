"""A hub in this process, for tests: repositories with files, and refusals as the real one words them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "3" * 40
GATED = "Access to model owner/gated is restricted. You must be authenticated to access it."


@dataclass
class Hub:
    """What it holds; change it as you like."""

    url: str
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Id -> file -> content."""
    datasets: set[str] = field(default_factory=set)
    errors: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """Id -> status and headers of every answer."""
    asked: list[str] = field(default_factory=list)
    """Paths of all requests."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Has huggingface_hub ask the hub at `url`, with an empty cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        kind, name = (parts[1], "/".join(parts[2:4])) if parts[0] == "api" else ("models", "/".join(parts[:2]))
        known = name in (hub.models if kind == "models" else hub.datasets)
        revision = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if parts[0] != "api" else "main"
        if name in hub.errors:
            self._send(*hub.errors[name])
        elif not known:
            self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", COMMIT):
            self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        elif parts[0] == "api":
            files = [{"rfilename": file} for file in hub.models.get(name, {})]
            self._send(200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode())
        else:
            content = hub.models[name][parts[4]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, {"ETag": etag, "X-Repo-Commit": COMMIT}, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
