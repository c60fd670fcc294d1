"""Turns a caller's arguments into a checked sweep: keywords override a sweep file, a mapping, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsweep import _travel
from sweeps.errors import ConfigError
from trainables.inputs.similar import did_you_mean

if TYPE_CHECKING:
    from sweeps.config.load import Change, LoadedSweep

KEYS = {
    "model": "model.source",
    **{
        name: f"data.{name}" for name in ("train", "eval", "test", "prompt", "completion", "system", "messages", "text")
    },
    "metrics": "evaluation.metrics",
    "trials": "budget.trials",
    "steps": "budget.steps_per_trial",
    "scheduler": "scheduler.kind",
    "searcher": "searcher.kind",
    "tracking": "tracking.uri",
}
"""Keyword -> key of the sweep file. All other keywords are keys of the sweep file themselves."""
_SPLITS = ("data.train", "data.eval", "data.test")
_OF_SPLIT = {"train": "train", "validation": "eval", "eval": "eval", "test": "test"}
"""Split of a DatasetDict -> keyword."""
_WHOLE = ("search_space", "objective")
"""Sections that replace a file's whole section. In other sections each key replaces a key."""


def sweep_of(config: str | Path | Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> LoadedSweep:
    """Makes the sweep that a caller describes. Writes rows and functions as files into the sweep's storage.

    Raises:
        ConfigError: with a line for each mistake.
    """
    from sweeps.config import load
    from sweeps.config.model import SweepConfig

    if not (config is None or isinstance(config, str | Path | Mapping)):
        kinds = "the path of a sweep file, the name of a recipe, or a mapping in the form of the sweep file"
        raise ConfigError([f"the sweep: is of type {type(config).__name__}: give {kinds}"])
    file = str(config) if isinstance(config, str | Path) else None
    given = list(_flat(config)) if isinstance(config, Mapping) else []
    keywords = _with_splits(keywords)
    given += _flat({_key(name, value): value for name, value in keywords.items()})
    if file is None and "name" not in dict(given):
        given.append(("name", _name(dict(given).get("model.source"))))
    folder = _storage(file, given) / _travel.FOLDER
    known = [*KEYS, "space", *SweepConfig.model_fields]
    wrong = [_unknown(name, known) for name in keywords if name.partition(".")[0] not in known]
    changes: list[Change] = []
    for key, value in given:
        try:
            changes.append((key, _travel.plain(_written(key, value, folder))))
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    try:
        return load.load(file, changes, Path.cwd())
    except ConfigError as error:
        raise ConfigError([_with_keyword(problem) for problem in error.problems]) from None


def _with_splits(keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the keywords with the splits of `train`, where this is a DatasetDict or another mapping of splits."""
    splits = keywords.get("train")
    if not isinstance(splits, Mapping):
        return keywords
    if "train" not in splits or (splits.keys() - _OF_SPLIT.keys()):
        known = ", ".join(_OF_SPLIT)
        there = ", ".join(map(str, splits))
        raise ConfigError([f"train: has {there}, and splits are taken by the names {known}: give train=, eval=, test="])
    return {
        **{_OF_SPLIT[name]: rows for name, rows in splits.items()},
        **{k: v for k, v in keywords.items() if k != "train"},
    }


def changes_of(changes: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted key of the sweep file -> value, for `LoadedSweep.add` and `LoadedSweep.extend`."""
    named = {_key(name, value): value for name, value in keywords.items()}
    return {key: _travel.plain(value) for key, value in _flat({**changes, **named})}


def _unknown(name: str, known: list[str]) -> str:
    from sweeps.config import messages, other_tools

    if name in other_tools.NOT_HERE:
        return f"{name}: not supported: {other_tools.NOT_HERE[name]}"
    section, _, key = (messages.elsewhere(name) or "").rpartition(".")
    meant = f': write {section}={{"{key}": ...}}' if section else did_you_mean(name, known)
    return f"{name}: unknown keyword{meant}"


def _with_keyword(problem: str) -> str:
    """Adds the keyword to a line about a missing section."""
    for section, keyword in (("data", "train=ROWS"), ("model", 'model="NAME"')):
        if problem.startswith(f"{section}: is required"):
            return f"{problem}: give {keyword}"
    return problem


def _key(name: str, value: object) -> str:
    """Returns the sweep file's key of a keyword. A mapping for `model` and its like is the whole section."""
    if name == "space":
        return "search_space"
    return name if isinstance(value, Mapping) else KEYS.get(name, name)


def _flat(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the keys of sections with a dot, `kind` first: it decides which other keys there may be."""
    for name, value in given.items():
        if isinstance(value, Mapping) and name not in _WHOLE and "." not in name:
            yield from ((f"{name}.{key}", value[key]) for key in sorted(value, key=lambda key: key != "kind"))
        else:
            yield name, value


def _written(key: str, value: Any, folder: Path) -> Any:
    if key in _SPLITS:
        return _travel.rows(key, value, folder)
    if key == "evaluation.metrics" and isinstance(value, list | tuple):
        return [_travel.metric(entry, folder) for entry in value]
    if key == "trainable":
        return _travel.trainable(value, folder)
    return value


def _name(model: object) -> str:
    """Names a sweep without a name after its model."""
    last = Path(str(model or "")).name
    return re.sub(r"[^\w.-]", "-", last, flags=re.ASCII).lstrip("._-")[:100] or "sweep"


def _storage(file: str | None, given: list[tuple[str, Any]]) -> Path:
    """Returns the folder for the sweep's folder, as the caller, the file or its profile says."""
    from sweeps.config import load
    from sweeps.config.model import SweepConfig
    from sweeps.config.uris import local_storage
    from trainables.inputs import paths

    said = [(key, _travel.plain(value)) for key, value in given if key in ("storage", "cluster.profile")]
    raw, _ = load.read_sweep_file(file, said, Path.cwd())
    load.apply_profile(raw)
    storage = local_storage(str(raw.get("storage") or SweepConfig.model_fields["storage"].default))
    return Path.cwd() / paths.at_home(Path(storage))
