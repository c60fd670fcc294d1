"""Reads and writes whole objects of an object store. A write fails if somebody else wrote first.

Credentials come from the environment and the machine's role; they are never shown (`cluster.object_store`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator

from cluster.object_store import is_bucket_missing, opened, reason
from sweeps.config.passwords import hidden
from sweeps.errors import StorageError
from sweeps.mirror import timeouts
from sweeps.record.whole_files import make_folder, open_file
from trainables.specs import Spec

Value = TypeVar("Value")
Got = TypeVar("Got")


def _is_below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or {".", "..", "/"} & set(parts):
        raise ValueError("must be a path below the sweep's folder")
    return path


PathBelow = Annotated[str, AfterValidator(_is_below)]


class Stored(Spec):
    """A file, or a part of one, in an object of the store."""

    object: PathBelow
    """Name of the object below the mirror."""
    size: int
    """In bytes."""
    sha256: str
    mtime_ns: int = 0
    """Last change of the file, in nanoseconds on the clock of its machine. A changed file has another size or time."""


class StoreError(StorageError):
    """The object store does not answer, or refuses."""


class Conflict(StorageError):  # noqa: N818 - reads as what happened
    """Somebody else has written the object since it was read."""


class ObjectVersion(NamedTuple):
    """Identifies the content of an object."""

    e_tag: str | None
    version: str | None


class Store:
    """The objects below one address, such as s3://bucket/prefix/NAME."""

    def __init__(self, uri: str, open_store: Callable[..., Any] = opened) -> None:
        """Asks nothing of the store yet. Raises `StoreError` if the environment holds an impossible setting."""
        self.uri = uri.rstrip("/")
        # Callers try again themselves, so that no request takes minutes in here.
        with self._as_store_errors():
            self._quick = open_store(self.uri)
            self._bulk = open_store(self.uri, timeouts.BULK_SECONDS, retries=3)

    def read(self, name: str) -> tuple[bytes, ObjectVersion] | None:
        """Returns a small object; None if there is none.

        Uses no event loop: a process that ends right after an event loop may be aborted (obstore 0.12, Python 3.11).
        """
        import obstore

        with self._as_store_errors(), _skip_missing():
            got = obstore.get(self._quick, name)
            return bytes(got.bytes()), ObjectVersion(got.meta["e_tag"], got.meta["version"])
        return None

    def read_all(self, names: Sequence[str]) -> list[tuple[bytes, ObjectVersion] | None]:
        """Returns several small objects, as `read` does."""
        return asyncio.run(_at_once(self._read, names))

    async def _read(self, name: str) -> tuple[bytes, ObjectVersion] | None:
        import obstore

        with self._as_store_errors(), _skip_missing():
            got = await obstore.get_async(self._quick, name)
            return bytes(await got.bytes_async()), ObjectVersion(got.meta["e_tag"], got.meta["version"])
        return None

    def write(self, name: str, content: bytes, before: ObjectVersion | None) -> ObjectVersion:
        """Writes a small object in place of the content that was read; None means that there was no object.

        No other driver writes the same content: if the store holds it, an earlier try succeeded and its answer was
        lost. Raises `Conflict` if somebody else has written or deleted the object since.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if before is None else {k: v for k, v in before._asdict().items() if v is not None}
        with self._as_store_errors():
            try:
                done = obstore.put(self._quick, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                found = self.read(name)
                if found is not None and found[0] == content:
                    return found[1]
                raise Conflict(f"{self.uri}/{name}: somebody else has written it") from None
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                raise Conflict(f"{self.uri}/{name}: is gone") from None
        return ObjectVersion(done["e_tag"], done["version"])

    def age(self, name: str) -> float:
        """Returns the seconds since an object was written, by the store's clock, which a new object tells."""
        import obstore

        probe = f"objects/{uuid.uuid4().hex}"
        with self._as_store_errors():
            obstore.put(self._quick, probe, b"now")
            try:
                written, now = (obstore.head(self._quick, each)["last_modified"] for each in (name, probe))
            finally:
                self.remove([probe])
        return (now - written).total_seconds()

    def send(self, contents: Mapping[str, Path | bytes]) -> dict[str, Stored]:
        """Writes objects of any size, and returns them by name. Skips files that are gone."""
        sent = asyncio.run(_at_once(self._send, contents.items()))
        return {stored.object: stored for stored in sent if stored is not None}

    async def _send(self, named: tuple[str, Path | bytes]) -> Stored | None:
        name, content = named
        if isinstance(content, bytes):
            await self._put(name, content)
            return Stored(object=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        try:
            file = content.open("rb")
        except FileNotFoundError:
            return None
        with file:  # An open file stays readable.
            state = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            await self._put(name, file)
        return Stored(object=name, size=state.st_size, sha256=digest, mtime_ns=state.st_mtime_ns)

    async def _put(self, name: str, content: Any) -> None:
        import obstore

        with self._as_store_errors():
            await obstore.put_async(
                self._bulk, name, content, chunk_size=timeouts.PART_BYTES, max_concurrency=timeouts.PARALLEL_TRANSFERS
            )

    def fetch(self, places: Iterable[tuple[Path, Sequence[Stored]]]) -> None:
        """Writes files from their parts, and sets their times of last change.

        Raises:
            StoreError: the store does not answer, or an object is not what was sent.
            OSError: a file cannot be written.
        """
        asyncio.run(_at_once(self._fetch, places))

    async def _fetch(self, place: tuple[Path, Sequence[Stored]]) -> None:
        target, parts = place
        make_folder(target.parent)
        with open_file(target, "wb") as file:
            for part in parts:
                digest, size = hashlib.sha256(), 0
                async for piece in self._pieces(part.object):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                if (digest.hexdigest(), size) != (part.sha256, part.size):
                    raise StoreError(f"{self.uri}/{part.object}: is not what was sent: it is damaged")
        if parts and parts[-1].mtime_ns:
            os.utime(target, ns=(parts[-1].mtime_ns, parts[-1].mtime_ns))

    async def _pieces(self, name: str) -> AsyncIterator[bytes]:
        import obstore

        with self._as_store_errors():
            got = await obstore.get_async(self._bulk, name)
            async for piece in got.stream(timeouts.PART_BYTES):
                yield bytes(piece)

    def remove(self, names: Iterable[str]) -> None:
        """Deletes objects; a missing object is no error, although Google's store answers 404 for it."""
        import obstore

        wanted = list(names)
        with self._as_store_errors():
            try:
                obstore.delete(self._bulk, wanted)
            except FileNotFoundError:
                for name in wanted:
                    with _skip_missing():
                        obstore.delete(self._bulk, name)

    def names(self, below: str) -> list[str]:
        """Returns the names of all objects below a folder."""
        import obstore

        with self._as_store_errors():
            return [each["path"] for page in obstore.list(self._quick, below) for each in page]

    def folders(self) -> list[str]:
        """Returns the names of the folders at the top."""
        import obstore

        with self._as_store_errors():
            return [Path(each).name for each in obstore.list_with_delimiter(self._quick)["common_prefixes"]]

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        """Raises errors of the store or its client as a `StoreError` in one line."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise StoreError(f"{self.uri}: {hidden(reason(error, self.uri))}") from None


@contextmanager
def _skip_missing() -> Iterator[None]:
    """Passes over a missing object, but not over a missing bucket."""
    try:
        yield
    except FileNotFoundError as error:
        if is_bucket_missing(error):
            raise


async def _at_once(function: Callable[[Value], Awaitable[Got]], values: Iterable[Value]) -> list[Got]:
    """Returns the function's answers in order, or raises its first error. No thread keeps the process from ending."""
    gate = asyncio.Semaphore(timeouts.PARALLEL_TRANSFERS)

    async def one(value: Value) -> Got:
        async with gate:
            return await function(value)

    return await asyncio.gather(*map(one, values))
