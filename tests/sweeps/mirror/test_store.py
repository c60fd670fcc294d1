"""The conditional writes that manifests rest on, on a real S3 server and on a stand-in of Google's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from email.utils import formatdate
from itertools import count

import obstore
import pytest
import web_servers

from sweeps.mirror.store import Conflict, Store, StoreError


def google() -> Callable[[web_servers.Request], web_servers.Answer]:
    """Answers as Google's XML API does for whole objects: generations, and writes under the condition of one.

    Its clock is wrong by far, and goes on by an hour with each write.
    """
    objects: dict[str, tuple[int, bytes]] = {}
    generations = count(1000, 1000)

    def answer(request: web_servers.Request) -> web_servers.Answer:
        generation, content = objects.get(request.path, (0, b""))
        if request.method == "PUT":
            if int(request.headers.get("x-goog-if-generation-match", generation)) != generation:
                return web_servers.Answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
            generation, content = next(generations), b""
            objects[request.path] = generation, request.body
        elif not generation:
            return web_servers.Answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        elif request.method == "DELETE":
            del objects[request.path]
            return web_servers.Answer(204, b"")
        told = {"x-goog-generation": str(generation), "ETag": f'"{generation}"'}
        return web_servers.Answer(200, content, {**told, "Last-Modified": formatdate(3.6 * generation, usegmt=True)})

    return answer


@pytest.fixture(params=["s3", "gs"])
def store(request, bucket, tmp_path, monkeypatch):
    if request.param == "s3":
        yield Store(f"{bucket.uri}/toy")
        return
    with web_servers.answering_by(google()) as address:
        keys = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        account = {"gcs_base_url": f"http://{address}", "disable_oauth": True, **keys}
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")  # lets a client do without TLS
        yield Store("gs://bucket/sweeps/toy")


def test_an_object_is_created_once_and_replaced_by_whoever_has_read_it_last(store):
    store.write("a", b"1", None)
    with pytest.raises(Conflict, match=r"sweeps/toy/a: somebody else has written it"):
        store.write("a", b"2", None)
    content, version = store.read("a")
    assert content == b"1"
    after = store.write("a", b"2", version)
    with pytest.raises(Conflict):
        store.write("a", b"3", version)
    store.write("a", b"4", after)
    missing, (content, version) = store.read_all(["b", "a"])
    assert (missing, content, store.read("b")) == (None, b"4", None)
    with pytest.raises(Conflict):
        store.write("b", b"2", version)


ENDS = """
import os, sys
from sweeps.mirror.store import Store
for _ in range(5):
    if not os.fork():
        Store(sys.argv[1]).read("a")
        sys.exit(2)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_process_that_ends_just_after_a_read_ends_as_it_wants_to(bucket):
    command = [sys.executable, "-c", ENDS, f"{bucket.uri}/toy"]
    done = subprocess.run(command, env={**os.environ, **bucket.environment}, capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * 5, done.stderr


def test_a_file_of_several_parts_is_sent_and_fetched_piece_by_piece(bucket, tmp_path):
    content = bytes(range(256)) * 100_000
    (tmp_path / "large").write_bytes(content)
    store = Store(f"{bucket.uri}/toy")
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


def test_objects_that_an_earlier_try_has_deleted_stop_no_other_from_being_deleted(store):
    for name in "abc":
        store.write(name, b"1", None)
    store.remove(["b"])  # its answer is lost, so the caller tries again
    store.remove(["a", "b", "c"])
    assert store.read_all(["a", "b", "c"]) == [None] * 3


def test_the_age_of_an_object_is_told_by_the_stores_own_clock(store, monkeypatch):
    delete = obstore.delete

    def delete_again(*asked):
        """Its answer is lost, so the client asks again."""
        delete(*asked)
        delete(*asked)

    monkeypatch.setattr(obstore, "delete", delete_again)
    store.write("a", b"1", None)
    store.write("b", b"1", None)
    hours = store.age("a") / 3600
    assert hours == 2 if store.uri.startswith("gs") else 0 <= hours < 1
