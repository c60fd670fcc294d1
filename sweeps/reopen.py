"""A sweep that goes on: its configuration as it was launched, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search_spaces.space import SearchSpace
from sweeps import points, problems
from sweeps.config import SweepConfig, Tracking
from sweeps.errors import ConfigError
from sweeps.folder import SweepFolder, noted_by, read_events
from sweeps.lifecycle import SweepStarted
from sweeps.load import Sweep
from sweeps.tracking.uris import absolute_uri, without_password


def load(folder: SweepFolder, tracking_uri: str | None = None) -> tuple[Sweep, str]:
    """The sweep in a folder, and its id.

    Args:
        folder: where it lies.
        tracking_uri: the MLflow to use instead of the one that the sweep has used so far.

    Raises:
        ConfigError: there is no sweep, it cannot be read, or its configuration is not the one that was launched.
    """
    try:
        document = json.loads(folder.config.read_text())
        raw, sweep_id = document["config"], str(document["sweep_id"])
    except OSError:
        raise ConfigError(
            [f"{folder.path}: no sweep here: a sweep's folder has a config.json{_sweeps_in(folder)}"]
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{folder.config}: not the configuration of a sweep: {error}"]) from None
    _unchanged(folder, raw)
    try:
        config = _tracked_by(SweepConfig.model_validate(raw), tracking_uri or noted_by(folder).get("uri"))
    except ValidationError as error:
        raise ConfigError(problems.of_validation(error, raw)) from None
    space = SearchSpace.parse(config.search_space)
    asked = {field: points.base_value(config.base, field) for field in space.condition_fields()}
    return Sweep(config, space.with_base(asked)), sweep_id


def _sweeps_in(folder: SweepFolder) -> str:
    """What may have been meant: the sweeps in a storage folder."""
    there = sorted(path.parent.name for path in folder.path.glob("*/config.json")) if folder.path.is_dir() else []
    return f"; in it are {', '.join(there)}" if there else ""


def _tracked_by(config: SweepConfig, uri: str | None) -> SweepConfig:
    """The configuration with another tracking URI, if there is one; the sweep was launched with the one in `config`."""
    if uri:
        tracking = Tracking.model_validate({**config.tracking.model_dump(), "uri": absolute_uri(uri, Path.cwd())})
        config = config.model_copy(update={"tracking": tracking})
    return _with_password(config)


def _with_password(config: SweepConfig) -> SweepConfig:
    """Passwords are not written down: one that the tracking URI needs comes from MLFLOW_TRACKING_URI."""
    uri = config.tracking.uri
    if uri == without_password(uri) and "***" not in uri:
        return config
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if without_password(given) != uri:
        raise ConfigError(
            [f"tracking.uri: the password of {uri} is not kept: give the whole URI in MLFLOW_TRACKING_URI"]
        )
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": given})})


def _unchanged(folder: SweepFolder, raw: Mapping[str, Any]) -> None:
    launched = next((event for event, _ in read_events(folder.events) if isinstance(event, SweepStarted)), None)
    if launched is None:
        return
    changes = list(_differences(json.loads(launched.config), raw, ""))
    if changes:
        way_out = "a sweep goes on as it was launched: put the values back, or launch a new sweep"
        raise ConfigError([*(f"{folder.config}: {change}" for change in changes), way_out])


def _differences(before: object, now: object, field: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from _differences(before.get(key), now.get(key), f"{field}.{key}" if field else str(key))
    elif before != now:
        yield f"{field} was {json.dumps(before)} at launch and is {json.dumps(now)} now"
