"""Writes a sweep's configuration into its folder at launch, and reads it when the sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search_spaces.space import SearchSpace
from sweeps.config import messages, searched_fields
from sweeps.config.load import LoadedSweep
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import shown_store, whole
from sweeps.config.uris import absolute_uri
from sweeps.errors import ConfigError, StorageError
from sweeps.record.events import SweepPlanned, SweepStarted
from sweeps.record.folder import SweepFolder, noted_by, read_events, stamp, writing
from sweeps.record.whole_files import entries, write_whole
from trainables import catalogue
from trainables.errors import DataError, ModelError
from trainables.inputs import json_text, paths

_PUT_BACK = "put the same file there again: a sweep goes on with the data and the model that it began with"


def load(folder: SweepFolder, tracking_uri: str | None = None) -> tuple[LoadedSweep, str]:
    """Returns the sweep in a folder, and its id.

    Args:
        tracking_uri: the MLflow to use instead of the one that the sweep has used so far.

    Raises:
        ConfigError: there is no sweep, it cannot be read, its configuration is not the launched one, or the folder is a
            copy of a sweep's folder that is still in its place.
        StorageError: another version of qsweep wrote the folder, in another format.
    """
    kept = _document(folder)
    raw, sweep_id = kept["config"], str(kept["sweep_id"])
    _refuse_copy(folder, kept)
    _refuse_changes(folder, raw, sweep_id)
    raw = _tracked_by(raw, shown_store(tracking_uri, {}) or noted_by(folder).get("uri"))
    try:
        config = SweepConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(messages.of_validation(error, raw)) from None
    whole(config.tracking.uri)  # A store whose password is nowhere is a mistake now, and not in the middle.
    return LoadedSweep(config, searched_fields.with_base(config, SearchSpace.parse(config.search_space))), sweep_id


def document(config: SweepConfig, sweep_id: str, planned: SweepPlanned | None = None) -> dict[str, Any]:
    """Returns the content of config.json: the resolved configuration, the sweep's id, and its plan if there is one."""
    plan = {} if planned is None else {"planned": planned.model_dump(mode="json")}
    return {**stamp(), "sweep_id": sweep_id, "config": config.model_dump(mode="json"), **plan}


def planned(folder: SweepFolder) -> SweepPlanned | None:
    """Returns the plan with which the sweep in a folder was launched; None if there was none."""
    found = _document(folder).get("planned")
    return None if found is None else SweepPlanned.model_validate(found)


def fingerprints(sweep: LoadedSweep, before: Mapping[str, str]) -> dict[str, str]:
    """Returns the fingerprints of the base model and the data, computed once for a sweep that begins.

    Args:
        before: their fingerprints when the sweep began; empty for a sweep that begins.

    Raises:
        ConfigError: the model or the data changed since the sweep began, or are gone.
        TrainableError: the model or the data of a sweep that begins are not there.
    """
    if sweep.fingerprints is not None:
        return dict(sweep.fingerprints)
    config = sweep.config
    try:
        with catalogue.answering(f"trainable: {config.trainable}: its fingerprint"):
            now = dict(catalogue.find(config.trainable).fingerprint(config.base))
    except (DataError, ModelError) as error:
        if not before:
            raise
        raise ConfigError([f"{error}; {_PUT_BACK}"]) from error
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise ConfigError(
            [f"{name}: its content is not what the sweep began with: launch a new sweep" for name in changed]
        )
    return now


def note_place(folder: SweepFolder) -> Path | None:
    """Notes the new place of a folder that was moved; returns its former place, None if it was not moved.

    Raises:
        StorageError: the folder cannot be written.
    """
    kept = _document(folder)
    former = _place(kept)
    if former is None or former == folder.path:
        return None
    with writing(folder.config):
        write_whole(folder.config, json.dumps({**kept, "dir": str(folder.path)}, indent=2).encode())
    return former


def _document(folder: SweepFolder) -> dict[str, Any]:
    try:
        return folder.document()
    except StorageError:
        raise
    except OSError:
        raise ConfigError(
            [f"{folder.path}: no sweep here: a sweep's folder has a config.json{_sweeps_in(folder)}"]
        ) from None
    except ValueError as error:
        raise ConfigError([f"{folder.config}: not the configuration of a sweep: {error}"]) from None


def _place(kept: Mapping[str, Any]) -> Path | None:
    """Returns the noted place of the sweep's folder; None if no place is noted."""
    place = kept.get("dir")
    return Path(place) if isinstance(place, str) and place else None


def _refuse_copy(folder: SweepFolder, kept: Mapping[str, Any]) -> None:
    """Refuses a copy beside its original: both are one sweep in MLflow, which would get every metric twice."""
    place = _place(kept)
    if place is None or not SweepFolder(place).holds(kept["sweep_id"]) or place.samefile(folder.path):
        return
    raise ConfigError(
        [
            f"{folder.path}: is a copy of the sweep in {place}, and MLflow would get every metric twice: go on there "
            f"with qsweep resume {place}, or remove that folder first and this one goes on in its place"
        ]
    )


def _sweeps_in(folder: SweepFolder) -> str:
    """Returns a hint with the sweeps in a folder: perhaps a storage was named in place of a sweep."""
    there = sorted(path.name for path in entries(folder.path) if paths.is_file(path / "config.json"))
    return f"; in it are {', '.join(there)}" if there else ""


def _tracked_by(raw: Mapping[str, Any], uri: str | None) -> Mapping[str, Any]:
    tracking = raw.get("tracking")
    if not uri or not isinstance(tracking, Mapping):
        return raw
    return {**raw, "tracking": {**tracking, "uri": absolute_uri(uri, Path.cwd())}}


def _refuse_changes(folder: SweepFolder, raw: Mapping[str, Any], sweep_id: str) -> None:
    """Refuses a configuration that differs from the one in the event log's first `SweepStarted`."""
    if not folder.events.exists() and not folder.trials():
        return  # the driver was ended before the sweep began
    first = next((event for event, _ in read_events(folder.events) if isinstance(event, SweepStarted)), None)
    if first is None:
        return
    try:
        launched = json_text.parse(first.config)
    except ValueError as error:
        raise StorageError(f"{folder.events}: the configuration in its first line is damaged: {error}") from None
    changes = [*_differences(launched, raw, ""), *_differences(first.sweep_id, sweep_id, "sweep_id")]
    if changes:
        way_out = "a sweep goes on as it was launched: put the values back, or launch a new sweep"
        raise ConfigError([*(f"{folder.config}: {change}" for change in changes), way_out])


def _differences(before: object, now: object, field: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{field}.{key}" if field else str(key))
    elif before != now:
        yield f"{field} was {json.dumps(before)} at launch and is {json.dumps(now)} now"
