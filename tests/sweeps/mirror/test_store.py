"""The conditional writes that leases and manifests rest on, on a real S3 server and on a stand-in of Google's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import object_stores
import pytest

from sweeps.mirror.store import Conflict, Store, StoreError


class Google(BaseHTTPRequestHandler):
    """What Google's XML API says to whole objects: generations, and writes under the condition of one."""

    objects: dict[str, tuple[int, bytes]]

    def _answer_all(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        generation, content = self.objects.get(self.path, (0, b""))
        if self.command == "PUT":
            wanted = self.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != generation:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.objects[self.path] = generation + 1000, body
            self._answer(200, b"", generation + 1000)
        elif generation:
            self._answer(200, content, generation)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_GET = do_PUT = _answer_all  # noqa: N815 - names that http.server calls

    def _answer(self, status: int, content: bytes, generation: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if generation:
            self.send_header("x-goog-generation", str(generation))
            self.send_header("ETag", f'"{generation}"')
            self.send_header("Last-Modified", "Fri, 27 Nov 2026 04:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(params=["s3", "gs"])
def store(request, tmp_path, monkeypatch):
    if request.param == "s3":
        with object_stores.running() as found:
            yield Store(f"{found.uri}/toy")
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Fresh", (Google,), {"objects": {}}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    account = {
        "gcs_base_url": address,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)  # lets a client do without TLS
    yield Store("gs://bucket/sweeps/toy")
    server.shutdown()
    server.server_close()


def test_an_object_is_created_once(store):
    store.write("a", b"1", None)
    with pytest.raises(Conflict, match="sweeps/toy/a: somebody else has written it"):
        store.write("a", b"2", None)
    assert store.read_all(["b", "a"])[0] is None
    assert store.read_all(["b", "a"])[1][0] == b"1"


def test_an_object_is_replaced_by_whoever_has_read_it_last(store):
    store.write("a", b"1", None)
    content, version = store.read("a")
    after = store.write("a", b"2", version)
    with pytest.raises(Conflict):
        store.write("a", b"3", version)
    store.write("a", b"4", after)
    assert (content, store.read("a")[0]) == (b"1", b"4")


def test_an_object_that_is_gone_is_neither_read_nor_replaced(store):
    version = store.write("a", b"1", None)
    assert store.read("b") is None
    with pytest.raises(Conflict):
        store.write("b", b"2", version)


def test_a_process_that_ends_just_after_a_read_ends_as_it_wants_to():
    with object_stores.running() as found:
        words = f"import sys; from sweeps.mirror.store import Store; Store('{found.uri}/toy').read('a'); sys.exit(2)"
        command = [sys.executable, "-c", words]
        ends = [subprocess.run(command, env={**os.environ, **found.environment}).returncode for _ in range(3)]
    assert ends == [2] * 3


def test_a_file_of_several_parts_is_sent_and_fetched_piece_by_piece(tmp_path):
    content = bytes(range(256)) * 100_000
    (tmp_path / "large").write_bytes(content)
    with object_stores.running() as found:
        store = Store(f"{found.uri}/toy")
        sent = store.send({"objects/a b/large": tmp_path / "large", "objects/gone": tmp_path / "gone"})
        assert store.names("objects") == list(sent) == ["objects/a b/large"]
        store.fetch([(tmp_path / "fetched" / "large", list(sent.values()))])
        fetched = tmp_path / "fetched" / "large"
        assert fetched.read_bytes() == content
        assert fetched.stat().st_mtime_ns == (tmp_path / "large").stat().st_mtime_ns
        store.remove(["objects/a b/large", "objects/never"])
        assert store.names("objects") == []
        with pytest.raises(StoreError, match="not found"):
            store.fetch([(tmp_path / "again", list(sent.values()))])


def test_a_write_whose_answer_was_lost_is_known_to_be_there(store):
    store.write("a", b"mine", None)
    version = store.write("a", b"mine", None)
    store.write("a", b"next", version)
    store.write("a", b"next", version)
    assert store.read("a")[0] == b"next"
