"""What is known of a sweep, and of the registered models, before MLflow is imported, which takes seconds.

From the sweep's folder, and from a SQLite database read with sqlite3 (mlflow/store/tracking/dbmodels/models.py and
mlflow/store/model_registry/dbmodels/models.py, 3.17.2). A server and other databases are left to MLflow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from pydantic import ValidationError

from sweeps.config.model import SweepConfig
from sweeps.config.uris import sqlite_file
from sweeps.errors import SweepError
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import label
from sweeps.tracking.registry import OURS, no_model
from sweeps.tracking.run_tags import NAME, NUMBER, PARENT_RUN, SWEEP_ID, TRIAL_KEY
from sweeps.tracking.stores import reading
from trainables.inputs import json_text

_NEWEST = f"""
select runs.run_uuid, ids.value, runs.artifact_uri from runs join tags ids using (run_uuid)
left join tags names on names.run_uuid = runs.run_uuid and names.key = '{NAME}'
where ids.key = '{SWEEP_ID}' and :sweep in (ids.value, runs.name, names.value) and runs.lifecycle_stage = 'active'
and not exists (select 1 from tags keys where keys.run_uuid = runs.run_uuid and keys.key = '{TRIAL_KEY}')
order by ids.value = :sweep desc, runs.start_time desc limit 1
"""
_TRIALS = f"""
select keys.value, cast(coalesce(numbers.value, 0) as integer) from tags parents
join tags keys on keys.run_uuid = parents.run_uuid and keys.key = '{TRIAL_KEY}'
left join tags numbers on numbers.run_uuid = parents.run_uuid and numbers.key = '{NUMBER}'
where parents.key = '{PARENT_RUN}' and parents.value = ? order by 2
"""


@dataclass(frozen=True)
class FirstLook:
    """What is known of a sweep. What is None is not known yet: MLflow tells it."""

    sweep_id: str | None = None
    config: SweepConfig | None = None
    trials: Mapping[str, str] | None = None
    """Trial key -> how tables name it."""


def look(uri: str, sweep: str, folder: Path | None) -> FirstLook:
    """What is known of the sweep of an id or a name."""
    sweep_id = artifacts = trials = None
    file = sqlite_file(uri)
    try:
        if file is not None:
            with reading(file) as database:
                found = database.execute(_NEWEST, {"sweep": sweep}).fetchone()
                if found is not None:
                    run, sweep_id, artifacts = found
                    trials = database.execute(_TRIALS, (run,)).fetchall()
    except sqlite3.Error:
        # It is locked, or no database of MLflow's: MLflow waits, or says what is wrong.
        return FirstLook()
    if folder is None and artifacts is not None:
        place = urlparse(artifacts)
        is_local = place.scheme in ("", "file")
        config = Path(unquote(place.path)) / "sweep" / "config.json" if is_local else None
    else:
        config = SweepFolder(folder).config if folder is not None else None
    if trials is None and folder is not None:
        trials = _in_log(SweepFolder(folder).events)
    labels = None if trials is None else {key: label(number) for key, number in trials}
    return FirstLook(sweep_id, _config(config), labels)


def _in_log(events: Path) -> list[tuple[str, int]] | None:
    """Key and number of each trial in an event log; None where it cannot be read. Reads no other event's content."""
    begins = b'{"type":"trial_started"'
    try:
        with events.open("rb") as log:
            begun = [json_text.parse(line) for line in log if line.startswith(begins) and line.endswith(b"\n")]
        return [(str(trial["trial_key"]), int(trial["number"])) for trial in begun]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_unknown_model(name: str, uri: str) -> None:
    """Raises `SweepError` when the store certainly has no registered model of the name."""
    file = sqlite_file(uri)
    if file is None:
        return
    try:
        with reading(file) as database:
            registered = {each for (each,) in database.execute("select name from registered_models")}
            ours = database.execute("select name from registered_model_tags where key = ? and value = '1'", (OURS,))
            promoted = sorted(each for (each,) in ours)
    except sqlite3.Error:
        return
    if name not in registered:
        raise SweepError(no_model(name, promoted))


def _config(file: Path | None) -> SweepConfig | None:
    """The configuration in a file; None when there is none that can be read: whoever needs it says why."""
    if file is None:
        return None
    try:
        return SweepConfig.model_validate(json_text.parse(file.read_bytes())["config"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
