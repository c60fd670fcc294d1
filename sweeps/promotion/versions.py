"""Reads the versions of a promoted model: their files and the moves of each alias. Rolls an alias back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from sweeps.config.model import Promotion
from sweeps.errors import NotStored, SweepError
from sweeps.promotion.request import policy_of
from sweeps.record import digests, fault_points
from sweeps.tracking import model_package, stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import IDENTITY, Entry, Model, Registry, Version, no_model, previous
from trainables.inputs import json_text

DIGEST = "package_sha256"
"""Tag of a complete version: digest of all files of its package but the decision record."""
RECORD_DIGEST = "decision_sha256"
"""Tag of a version: digest of its decision record."""


@dataclass(frozen=True)
class Found:
    """The files of a promoted version, as they are now."""

    name: str
    """Name for people: "tickets version 3", or the folder."""
    version: Version | None
    """None for a folder."""
    files: Mapping[str, bytes]
    """Path in the package -> content."""


# The files of a version's package


def find(reference: str, tracking_uri: str | None) -> Found:
    """Finds the version that MODEL (its champion), MODEL@ALIAS or a folder with its files names. Verifies nothing.

    Raises:
        SweepError: there is no such version, its files are gone, or it has no decision record.
    """
    folder = Path(reference)
    if (folder / model_package.RECORD).is_file():
        return Found(reference, None, digests.read_files(folder))
    if folder.is_dir() or "/" in reference:
        what = f"the folder holds no {model_package.RECORD}" if folder.is_dir() else "there is no such folder"
        raise SweepError(f"{reference}: {what}: name a folder with a version's files, or a registered model")
    uri = stores.store(tracking_uri)
    with answering(uri):
        name, version = at(Registry(uri), reference)
        files = Lookup(uri).files(version.run_id, package_path(name, version.tags[IDENTITY]))
    if model_package.RECORD not in files:
        raise SweepError(
            f"{name}: version {version.number} has no {model_package.RECORD}: promote its trial again, to another alias"
        )
    return Found(f"{name} version {version.number}", version, files)


def package_path(model: str, identity: str) -> str:
    """Returns the path of a version's package among the artifacts of its run."""
    return f"promoted/{model}/{identity}"


def package(lookup: Lookup, model: str, version: Version) -> dict[str, bytes]:
    """Fetches and verifies a complete version's files. Raises `NotStored` if they are gone, `SweepError` if changed."""
    try:
        files = lookup.files(version.run_id, package_path(model, version.tags[IDENTITY]))
    except NotStored as error:
        raise NotStored(
            f"{model}: the files of version {version.number} are gone ({error}): delete this version in MLflow and "
            "promote again"
        ) from None
    if digest_of(files) != version.tags.get(DIGEST):
        raise SweepError(
            f"{model}: the files of version {version.number} are not those that were promoted: sha256 differs; go to "
            "another version with qsweep rollback --to, and delete this one in MLflow"
        )
    return files


def digest_of(files: Mapping[str, bytes]) -> str:
    """Returns the `DIGEST` of a package's files."""
    return digests.of_files({name: content for name, content in files.items() if name != model_package.RECORD})


def adapter_in(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the files of a package's PEFT folder."""
    return _below(f"{model_package.ADAPTER}/", files)


def has_dora(files: Mapping[str, bytes]) -> bool:
    """Tells whether a package's adapter is one of DoRA, which servers take merged only."""
    config: Any = json_text.parse(adapter_in(files)["adapter_config.json"])
    return bool(config.get("use_dora"))


def tokenizer_in(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the files of a package's tokenizer, with its chat template."""
    return _below("artifacts/tokenizer/", files)


def _below(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name.removeprefix(prefix): content for name, content in files.items() if name.startswith(prefix)}


def base_in(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns a package's facts about its base; see `model_package.base_json`."""
    facts: dict[str, Any] = json_text.parse(files["artifacts/base.json"])
    return facts


def row_form_in(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns the fields of `data` that give the form of the rows on which the package's adapter was trained."""
    form: dict[str, Any] = base_in(files)["form"]
    return {name: value for name, value in form.items() if name != "max_length"}


# The moves of aliases


def models(name: str | None, tracking_uri: str | None) -> list[tuple[Model, dict[str, Version]]]:
    """Returns all promoted models, or that called `name` (`SweepError` if there is none), with versions by alias."""
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry = Registry(uri)
        chosen = registry.models() if name is None else [named(registry, name)]
        return [
            (model, {alias: registry.version(model.name, number) for alias, number in model.aliases.items()})
            for model in chosen
        ]


def named(registry: Registry, name: str) -> Model:
    """Returns the promoted model of this name. Raises `SweepError` if there is none."""
    model = registry.model(name)
    if model is None:
        raise SweepError(no_model(name, [each.name for each in registry.models()]))
    return model


def at(registry: Registry, words: str) -> tuple[str, Version]:
    """Returns the model's name and the version that NAME@ALIAS means. NAME alone means the champion.

    Raises:
        SweepError: there is no such model or alias, or the promotion of the version was not completed.
    """
    name, _, alias = words.partition("@")
    model = named(registry, name)
    version = registry.at(name, alias or "champion")
    if version is None:
        known = ", ".join(sorted(model.aliases)) or "none"
        raise SweepError(f"{name} has no {alias or 'champion'} (its aliases: {known})")
    if not version.is_complete:
        raise SweepError(f"version {version.number} of {name} was never promoted to its end")
    return name, version


def moves(model: Model, alias: str) -> list[Entry]:
    """Returns the completed moves of an alias, oldest first."""
    return [entry for place, entry in enumerate(model.history) if entry.alias == alias and _is_completed(model, place)]


def _is_completed(model: Model, place: int) -> bool:
    """Tells whether the alias moved as an entry says. An entry is written right before the alias moves.

    An entry without a `done` mark may have been interrupted. The alias's next entry, or else the present alias, then
    shows whether the alias moved. A person may have moved the alias since.
    """
    entry = model.history[place]
    if entry.done:
        return True
    later = [other for other in model.history[place + 1 :] if other.alias == entry.alias]
    return (later[0].previous if later else model.aliases.get(entry.alias)) == entry.version


def interrupted(model: Model, alias: str) -> str | None:
    """Returns the target of the alias's last rollback, if it was interrupted before the alias moved; else None."""
    begun = [place for place, entry in enumerate(model.history) if entry.alias == alias]
    if not begun or _is_completed(model, begun[-1]) or model.history[begun[-1]].action != "rollback":
        return None
    return model.history[begun[-1]].version


def version_before(model: Model, alias: str) -> str | None:
    """Returns the version that the present one was promoted over; None if there was none.

    A rollback takes promotions back, so that a second rollback does not return to the version that the first one left.
    """
    standing: list[str] = []  # versions promoted one over the other, the present one last
    below: dict[str, list[str]] = {}  # version -> `standing` right before its last promotion
    for entry in moves(model, alias):
        if entry.previous is not None:
            standing = _moved(standing, below, entry.previous)  # a person may have moved the alias since
        if entry.action == "promote":
            below[entry.version] = standing
            standing = [*standing, entry.version]
        else:
            standing = _moved(standing, below, entry.version)
    now = model.aliases.get(alias)
    if now is None:
        return model.aliases.get(previous(alias))
    return next(iter(_moved(standing, below, now)[-2::-1]), None)


def _moved(standing: list[str], below: Mapping[str, list[str]], version: str) -> list[str]:
    """Returns the promotions that stand after the alias moved to a version: those up to this version."""
    if version in standing:
        last = len(standing) - standing[::-1].index(version)
        return standing[:last]
    return [*below.get(version, standing), version]


def taken_back(model: Model, alias: str, version: str) -> Entry | None:
    """Returns the rollback by which an alias last left a version; None if the alias has returned since."""
    left = None
    for entry in moves(model, alias):
        if entry.previous == version:
            left = entry if entry.action == "rollback" else None
        elif entry.version == version:
            left = None
    return left


def in_words(time: float) -> str:
    """Formats a time of the history for people, in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def table_of_models(promoted: list[tuple[Model, dict[str, Version]]]) -> Table:
    """Makes a table of the models, with a line for each alias."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "alias", "version", "loss", "trial", "sweep", "base"):
        shown.add_column(column, justify="right" if column in ("version", "loss") else "left", no_wrap=True)
    for model, versions in promoted:
        if not versions:
            shown.add_row(model.name, "none: no promotion has come to its end", *[""] * 5)
        for alias, version in sorted(versions.items()):
            tags = version.tags
            loss = f"{float(tags['loss']):.4f}" if "loss" in tags else ""
            forced = " (forced)" if "promotion.forced" in tags else ""
            shown.add_row(
                model.name, alias + forced, version.number, loss,
                tags.get("sweep.trial_key", ""), tags.get("sweep.id", ""), tags.get("base", ""),
            )  # fmt: skip
    return shown


def table_of_moves(model: Model) -> Table:
    """Makes a table of the moves of a model's aliases, oldest first."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("when", "what", "alias", "version", "before", "gain", "sweep"):
        shown.add_column(column, justify="right" if column in ("version", "before", "gain") else "left", no_wrap=True)
    for place, entry in enumerate(model.history):
        gain = "" if entry.gain is None else f"{entry.gain:+.4f}"
        done = "" if _is_completed(model, place) else " (not completed)"
        shown.add_row(
            in_words(entry.time), entry.action + done, entry.alias, entry.version, entry.previous or "", gain,
            entry.sweep,
        )  # fmt: skip
    return shown


def as_json(model: Model) -> dict[str, Any]:
    """Returns a model as JSON data."""
    return {
        "model": model.name,
        "aliases": dict(model.aliases),
        "history": [
            {name: value for name, value in vars(entry).items() if name != "done"}
            | {"completed": _is_completed(model, place)}
            for place, entry in enumerate(model.history)
        ],
    }


# Rollback


def rollback(
    name: str,
    to: str | None,
    alias: str,
    tracking_uri: str | None,
    clock: Callable[[], float] = time.time,
    say: Callable[[str], None] = lambda line: None,
) -> Entry:
    """Points an alias to an earlier version, by default to the one that the present version was promoted over.

    Returns the new entry of the history.

    Args:
        to: the version to go back to; None to complete an interrupted rollback, else for the version before.
        say: receives a line if a promotion has to end first.

    Raises:
        SweepError: there is no complete version to go back to, or its files are not those that were promoted.
    """
    policy_of({"alias": alias}, Promotion())
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry = Registry(uri)
        with registry.locked(lambda: say("waiting for a promotion on this store to end: it serves its version first")):
            return _roll_back(registry, name, to, alias, clock)


def _roll_back(registry: Registry, name: str, to: str | None, alias: str, clock: Callable[[], float]) -> Entry:
    model = named(registry, name)
    now = model.aliases.get(alias)
    target = to if to is not None else interrupted(model, alias) or version_before(model, alias)
    if target is None:
        raise SweepError(
            f"{name}: no version was the {alias} before: there is nothing to go back to; name another with --to "
            f"VERSION: qsweep models --model {name} lists them"
        )
    version = registry.version(name, target)
    target = version.number  # MLflow takes 01 for 1
    if not version.is_complete:
        raise SweepError(f"--to: version {target} of {name} was never promoted to its end")
    if target == now:
        raise SweepError(f"{name}: version {target} is the {alias} already: name another with --to")
    package(Lookup(registry.uri), name, version)
    entry = Entry(clock(), "rollback", alias, target, now, version.tags.get("sweep.id", ""))
    move(registry, name, entry)
    return entry


def move(registry: Registry, name: str, entry: Entry, is_free: Callable[[], bool] = lambda: True) -> bool:
    """Writes an entry to the history, moves the alias of the version before, and last the entry's alias.

    Asks `is_free` right before the last move. If it says no, takes the entry back and returns False.
    """
    registry.remember(name, entry)
    fault_points.point(f"{entry.action}.after_history")
    if entry.previous is not None:
        registry.point(name, previous(entry.alias), entry.previous)
    fault_points.point(f"{entry.action}.after_previous")
    if not is_free():
        registry.forget_last(name, entry)
        return False
    registry.point(name, entry.alias, entry.version)
    fault_points.point(f"{entry.action}.after_alias")
    registry.mark_done(name, entry)
    return True
