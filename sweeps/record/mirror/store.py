"""The object store as a mirror uses it: whole objects, and writes that fail when somebody else wrote first.

Credentials come from the environment and the machine's role; they are never shown (`cluster.object_store`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.object_store import is_bucket_missing, opened, reason
from sweeps.config.passwords import without_passwords
from sweeps.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BULK_SECONDS = 300.0
"""How long the transfer of one part of a file may take."""
PART_BYTES = 8 << 20


class StoreError(StorageError):
    """The object store does not answer, or refuses."""


class Conflict(StorageError):  # noqa: N818 - reads as what happened
    """Somebody else has written the object since it was read."""


class Version(NamedTuple):
    """Which content an object has."""

    e_tag: str | None
    version: str | None


class Store:
    """The objects below one address, such as s3://bucket/prefix/NAME."""

    def __init__(self, uri: str) -> None:
        """Asks nothing of the store yet. Raises `StoreError` when the environment says something that cannot be."""
        self.uri = uri.rstrip("/")
        # Tried again by whoever needs it, and not for minutes in here.
        with self._told():
            self._quick: Any = opened(self.uri)
            self._bulk: Any = opened(self.uri, BULK_SECONDS, retries=3)

    def read(self, name: str) -> tuple[bytes, Version] | None:
        """A small object; None when there is none."""
        import obstore

        with self._told():
            try:
                got = obstore.get(self._quick, name)
                content = bytes(got.bytes())
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                return None
        return content, Version(got.meta["e_tag"], got.meta["version"])

    def write(self, name: str, content: bytes, before: Version | None) -> Version:
        """Writes a small object in the place of what was read; None: that there is no such object.

        Raises:
            Conflict: somebody else has written or deleted it since.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if before is None else {k: v for k, v in before._asdict().items() if v is not None}
        with self._told():
            try:
                done = obstore.put(self._quick, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                raise Conflict(f"{self.uri}/{name}: somebody else has written it") from None
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                raise Conflict(f"{self.uri}/{name}: is gone") from None
        return Version(done["e_tag"], done["version"])

    def send(self, name: str, content: Path | bytes) -> None:
        """Writes an object of any size."""
        import obstore

        with self._told():
            obstore.put(self._bulk, name, content, chunk_size=PART_BYTES, max_concurrency=4)

    def fetch(self, name: str) -> Iterator[bytes]:
        """The content of an object of any size, piece by piece."""
        import obstore

        with self._told():
            yield from obstore.get(self._bulk, name).stream(PART_BYTES)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes objects; one that is not there is no error."""
        import obstore

        with self._told():
            obstore.delete(self._bulk, list(names))

    def names(self, below: str) -> list[str]:
        """The names of all objects below a folder."""
        import obstore

        with self._told():
            return [each["path"] for page in obstore.list(self._quick, below) for each in page]

    def folders(self) -> list[str]:
        """The names of the folders at the top."""
        import obstore

        with self._told():
            return [Path(each).name for each in obstore.list_with_delimiter(self._quick)["common_prefixes"]]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raises what the store or its client says as a `StoreError` in one line."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise StoreError(f"{self.uri}: {without_passwords(reason(error, self.uri))}") from None
