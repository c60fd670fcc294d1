"""An object store on this machine (moto's S3 server), which tests stop and start again; its objects outlive a stop."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import obstore
import requests
from mlflow_servers import free_port
from moto.moto_server import werkzeug_app
from moto.server import ThreadedMotoServer
from obstore.store import from_url
from werkzeug.serving import make_server

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key-4711", "AWS_SECRET_ACCESS_KEY": "secret-0815", "AWS_REGION": "us-east-1"}


class _Server(ThreadedMotoServer):
    """Stops at once: moto's own looks twice a second whether it is to stop (moto_server/threaded_moto_server.py, 5)."""

    def _server_entry(self) -> None:
        app = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        handler = werkzeug_app.MotoRequestHandler
        self._server = make_server(self._ip_address, self._port, app, threaded=True, request_handler=handler)
        self._server_ready_event.set()
        self._server.serve_forever(0.01)


@dataclass
class ObjectStore:
    """A store with one bucket of the test's own."""

    port: int = field(default_factory=free_port)
    bucket: str = field(default_factory=lambda: f"b-{uuid.uuid4().hex[:8]}")
    _server: _Server | None = None

    @property
    def endpoint(self) -> str:
        """Where the server answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        """The storage of sweeps."""
        return f"s3://{self.bucket}/sweeps"

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to reach the store."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def start(self) -> None:
        """Starts the server; back when it answers."""
        self._server = _Server(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Stops the server; its objects stay."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def make_bucket(self) -> None:
        """Makes the bucket."""
        requests.put(f"{self.endpoint}/{self.bucket}", timeout=10).raise_for_status()

    def names(self, below: str = "") -> list[str]:
        """The names of all objects below a folder of the storage."""
        return sorted(each["path"] for page in obstore.list(self._opened(), below or None) for each in page)

    def read(self, name: str) -> bytes:
        """An object of the storage."""
        return bytes(obstore.get(self._opened(), name).bytes())

    def document(self, name: str) -> dict:
        """A JSON object of the storage."""
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Replaces an object of the storage."""
        obstore.put(self._opened(), name, content)

    def delete(self, name: str) -> None:
        """Deletes an object of the storage."""
        obstore.delete(self._opened(), name)

    def _opened(self):
        keys: dict[str, Any] = {"access_key_id": "key-4711", "secret_access_key": "secret-0815", "region": "us-east-1"}
        return from_url(self.uri, endpoint=self.endpoint, client_options={"allow_http": True}, **keys)


@contextmanager
def running() -> Iterator[ObjectStore]:
    """A store for as long as the block runs, which this process's environment names."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    store.start()
    store.make_bucket()
    before = {name: os.environ.get(name) for name in store.environment}
    os.environ.update(store.environment)
    try:
        yield store
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        store.stop()
