"""Wraps MLflow's model registry for promotion: finds versions by identity, moves aliases, keeps a history in tags.

MLflow 3.17 has no compare-and-set for an alias: one call moves an alias, and the last writer wins. On one SQLite
database, a promotion holds a file lock beside the database. On a server, a promotion reads the alias right before and
right after it moves the alias. Between the first read and the move, another promotion that compared with the same
champion can move it too. The later one wins; the history may then name only one of them, perhaps the earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cluster.errors import first_line
from sweeps.config.passwords import whole
from sweeps.config.uris import sqlite_file
from sweeps.errors import SweepError
from sweeps.tracking.client import paged, quiet
from sweeps.tracking.failures import is_away, of_artifacts

OURS = "qsweep.model"
"""Tag of registered models that promotion made."""
IDENTITY = "promotion.identity"
ROWS = "promotion.rows_fingerprint"
"""Tag of a version: fingerprint of the rows that decided."""
STATE = "promotion.state"
COMPLETE = "complete"
_OF_A_CHAMPION = ("loss.champion", "gain.champion")
"""Tags that a version has only if its last promotion compared it with a champion."""
_HISTORY = "promotion.history."
_DONE = "promotion.done."
"""Prefix of tags that mark entries as completed."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """Tells whether a promotion has written all of the version, and served it once."""
        return self.tags.get(STATE) == COMPLETE


@dataclass(frozen=True)
class Entry:
    """One move of an alias in the history."""

    time: float
    action: str
    """`promote` or `rollback`."""
    alias: str
    version: str
    previous: str | None = None
    sweep: str = ""
    gain: float | None = None
    """Gain over the champion, or over the base if there was no champion, in the unit of the deciding metric.

    None for a rollback, and if --force promoted without a comparison with the champion.
    """
    done: bool = False
    """Whether the move is marked as completed."""


@dataclass(frozen=True)
class Model:
    """A registered model that promotion made."""

    name: str
    aliases: Mapping[str, str]
    """Alias -> version."""
    history: tuple[Entry, ...]
    last: int = 0
    """Number of the last entry, which may be unreadable."""


class Registry:
    """The registry of one tracking store."""

    def __init__(self, uri: str) -> None:
        quiet()
        from mlflow import MlflowClient

        self.uri = uri
        store = whole(uri)
        self._client = MlflowClient(tracking_uri=store, registry_uri=store)

    # Reading

    def model(self, name: str) -> Model | None:
        """Returns the registered model; None if there is none. Raises `SweepError` if promotion did not make it."""
        registered = self._registered(name)
        if registered is None:
            return None
        if registered.tags.get(OURS) != "1":
            raise SweepError(
                f"--model: {name!r} is registered already and not by qsweep (it has no tag {OURS}): name another model"
            )
        return _model(registered)

    def models(self) -> list[Model]:
        """Returns all registered models that promotion made."""
        return [_model(each) for each in paged(partial(self._client.search_registered_models, f"tags.`{OURS}` = '1'"))]

    def at(self, name: str, alias: str) -> Version | None:
        """Returns the version that an alias points to; None if there is none."""
        model = self._registered(name)
        number = None if model is None else model.aliases.get(alias)
        return None if number is None else self.version(name, str(number))

    def version(self, name: str, number: str) -> Version:
        """Returns the version of this number. Raises `SweepError` if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version(name, number))
        except MlflowException as error:
            if is_away(error):
                raise
            told = f"no version {number}: {first_line(error)}"
            raise SweepError(f"{name}: {told}; qsweep models --model {name} lists them") from error

    def versions(self, name: str, tag: str | None = None, value: str = "") -> list[Version]:
        """Returns the versions of a model, oldest first; with `tag`, those that have this value of the tag."""
        has_tag = "" if tag is None else f" and tags.`{tag}` = '{value}'"
        found = paged(partial(self._client.search_model_versions, f"name = '{name}'{has_tag}"))
        return sorted(map(_version, found), key=lambda version: int(version.number))

    def of_identity(self, name: str, identity: str) -> Version | None:
        """Returns the oldest version of this identity; None if there is none."""
        return next(iter(self.versions(name, IDENTITY, identity)), None)

    # Writing: each of these can run twice

    def make_model(self, name: str) -> None:
        """Registers the name with the tag `OURS`, unless promotion made it already."""
        from mlflow.exceptions import MlflowException

        if self.model(name) is None:
            try:
                self._client.create_registered_model(name, tags={OURS: "1"})
            except MlflowException:
                # Another promotion may have registered it in between.
                if self.model(name) is None:
                    raise

    def describe_model(self, name: str, text: str) -> None:
        """Writes the model's description."""
        self._client.update_registered_model(name, text)

    def upload(self, run_id: str, folder: Path, path: str) -> None:
        """Uploads a folder to the run's artifacts."""
        with of_artifacts():
            self._client.log_artifacts(run_id, str(folder), path)

    def make_version(self, name: str, run_id: str, path: str, tags: Mapping[str, str], text: str) -> Version:
        """Returns the version with the identity in `tags`, made from the run's artifacts.

        One request makes the version with its tags, so that no version is ever without its identity. If the version is
        there, it gets the tags and the text.
        """
        identity = tags[IDENTITY]
        known = self.of_identity(name, identity)
        if known is not None:
            self.tag(name, known.number, tags)
            for key in known.tags.keys() & {*_OF_A_CHAMPION} - tags.keys():
                self._client.delete_model_version_tag(name, known.number, key)
            self._client.update_model_version(name, known.number, text)
            return known
        made = self._client.create_model_version(
            name, f"runs:/{run_id}/{path}", run_id, tags=dict(tags), description=text, await_creation_for=0
        )
        first = self.of_identity(name, identity)
        if first is None or first.number == str(made.version):
            return _version(made)
        # Another promotion of the same adapter has made one in between: the oldest one stays.
        self._client.delete_model_version(name, str(made.version))
        return first

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Sets tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version, key, value)

    def point(self, name: str, alias: str, version: str) -> None:
        """Makes an alias point to a version."""
        self._client.set_registered_model_alias(name, alias, version)

    def remember(self, name: str, entry: Entry) -> None:
        """Adds an entry to the history. Replaces the last entry if it is the same move and the alias did not move."""
        model = self.model(name)
        assert model is not None
        last = model.history[-1] if model.history else None
        has_moved = last is None or last.done or model.aliases.get(entry.alias) == entry.version
        # The same move was tried before, and was interrupted before the alias moved.
        is_again = last is not None and _same(last, entry) and not has_moved
        number = model.last if is_again else model.last + 1
        told = {key: value for key, value in vars(entry).items() if key != "done" and value not in (None, "")}
        self._client.set_registered_model_tag(name, f"{_HISTORY}{number:04d}", json.dumps(told))

    def mark_done(self, name: str, entry: Entry) -> None:
        """Marks the last entry as completed, if it is the same move.

        Ignores errors of MLflow: the next entry shows the move too. An error would suggest that the alias did not move,
        and people who then roll back again would go one version too far.
        """
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException, SweepError):
            model = self.model(name)
            if model is not None and model.history and _same(model.history[-1], entry):
                self._client.set_registered_model_tag(name, f"{_DONE}{model.last:04d}", "1")

    def forget_last(self, name: str, entry: Entry) -> None:
        """Removes the last entry if it is the same move: the alias did not move."""
        model = self.model(name)
        if model is not None and model.history and _same(model.history[-1], entry):
            self._client.delete_registered_model_tag(name, f"{_HISTORY}{model.last:04d}")

    @contextmanager
    def locked(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Locks the registry of a SQLite database, not of a server. Calls `waiting` if another process holds it."""
        file = sqlite_file(self.uri)
        if file is None:
            yield
            return
        lock = FileLock(file.with_name(f".{file.name}.promotion.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _registered(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            if is_away(error):
                raise
            raise SweepError(f"--model: {name!r}: {first_line(error)}") from error


def no_model(name: str, known: Sequence[str]) -> str:
    """Says that there is no registered model of this name, and which ones promotion made."""
    return f"no registered model {name!r} (there are: {', '.join(known) or 'none'})"


def previous(alias: str) -> str:
    """Returns the alias of the version that `alias` pointed to before."""
    return "previous" if alias == "champion" else f"previous-{alias}"


def _same(one: Entry, other: Entry) -> bool:
    return (one.action, one.alias, one.version, one.previous) == (
        other.action, other.alias, other.version, other.previous,
    )  # fmt: skip


def _version(raw: Any) -> Version:
    return Version(str(raw.version), raw.run_id, dict(raw.tags))


def _model(raw: Any) -> Model:
    entries = []
    keys = sorted(key for key in raw.tags if key.startswith(_HISTORY))
    for key in keys:
        # A tag that somebody else has changed must not hide the other entries.
        with suppress(ValueError, TypeError):
            is_done = f"{_DONE}{key.removeprefix(_HISTORY)}" in raw.tags
            entries.append(Entry(**json.loads(raw.tags[key]) | {"done": is_done}))
    return Model(raw.name, {alias: str(number) for alias, number in raw.aliases.items()}, tuple(entries), _last(keys))


def _last(keys: Sequence[str]) -> int:
    numbers = (key.removeprefix(_HISTORY) for key in keys)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
