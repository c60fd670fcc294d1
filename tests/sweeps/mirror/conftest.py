"""A real S3 server for the tests of mirrors, and an empty bucket for each of them."""

from __future__ import annotations

import mirrors
import object_stores
import pytest


@pytest.fixture(scope="module")
def server():
    with object_stores.running() as found:
        yield found


@pytest.fixture
def bucket(server, monkeypatch):
    """The server with an empty bucket; drivers look at it often."""
    mirrors.hurry(monkeypatch)
    fresh = object_stores.ObjectStore(port=server.port)
    fresh.make_bucket()
    return fresh


@pytest.fixture
def folder(bucket, tmp_path, monkeypatch):
    """Of a new sweep that is mirrored on the store."""
    return mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
