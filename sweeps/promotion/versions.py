"""The versions of a promoted model: the files of their packages, where each alias pointed, and the way back."""

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
"""A complete version's tag that holds the digest of all files of its package but the decision record."""
RECORD_DIGEST = "decision_sha256"
"""A version's tag that holds the digest of its decision record."""


@dataclass(frozen=True)
class Found:
    """The files of a promoted version, as they are now."""

    name: str
    """What people call it: "tickets version 3", or the folder."""
    version: Version | None
    """None of a folder."""
    files: Mapping[str, bytes]
    """Path in the package -> content, the decision record among them; of a folder only it and what is in artifacts."""


# The files of a version's package


def find(reference: str, tracking_uri: str | None) -> Found:
    """The version that MODEL, MODEL@ALIAS or a folder with its files names. Nothing is verified.

    Args:
        reference: without an alias the champion is meant.
        tracking_uri: the store; None for the usual one.

    Raises:
        SweepError: there is none, its files are gone, or it has no decision record.
    """
    folder = Path(reference)
    if (folder / model_package.RECORD).is_file():
        below = {f"artifacts/{name}": content for name, content in digests.read(folder / "artifacts").items()}
        return Found(reference, None, below | {model_package.RECORD: (folder / model_package.RECORD).read_bytes()})
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
    """The path of a version's package among the artifacts of its run."""
    return f"promoted/{model}/{identity}"


def package(lookup: Lookup, model: str, version: Version) -> dict[str, bytes]:
    """Fetches the files of a complete version's package, and verifies them.

    Raises:
        NotStored: they are gone.
        SweepError: they are not the files that were promoted.
    """
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
    """The `DIGEST` of a package's files."""
    return digests.of_files({name: content for name, content in files.items() if name != model_package.RECORD})


def adapter_in(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package's PEFT folder."""
    return _below(f"{model_package.ADAPTER}/", files)


def tokenizer_in(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package's tokenizer, with its chat template."""
    return _below("artifacts/tokenizer/", files)


def _below(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name.removeprefix(prefix): content for name, content in files.items() if name.startswith(prefix)}


def base_in(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the package says of its base; see `model_package.base_json`."""
    facts: dict[str, Any] = json_text.parse(files["artifacts/base.json"])
    return facts


def row_form_in(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of `data` that say in what form of rows the package's adapter was trained."""
    form: dict[str, Any] = base_in(files)["form"]
    return {name: value for name, value in form.items() if name != "max_length"}


# Where aliases pointed


def models(name: str | None, tracking_uri: str | None) -> list[tuple[Model, dict[str, Version]]]:
    """The promoted models, or the one of a name, each with its versions by alias.

    Raises:
        SweepError: there is no model of the name.
    """
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry = Registry(uri)
        chosen = registry.models() if name is None else [named(registry, name)]
        return [
            (model, {alias: registry.version(model.name, number) for alias, number in model.aliases.items()})
            for model in chosen
        ]


def named(registry: Registry, name: str) -> Model:
    """The promoted model of a name. Raises `SweepError` when there is none."""
    model = registry.model(name)
    if model is None:
        raise SweepError(no_model(name, [each.name for each in registry.models()]))
    return model


def at(registry: Registry, words: str) -> tuple[str, Version]:
    """The model's name and the version that NAME@ALIAS means, or NAME alone: the champion.

    Raises:
        SweepError: there is no such model or alias, or the version was never promoted to its end.
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
    """The completed moves of an alias, the oldest first."""
    return [entry for place, entry in enumerate(model.history) if entry.alias == alias and _is_completed(model, place)]


def _is_completed(model: Model, place: int) -> bool:
    """Whether the alias moved as an entry says. Entries are written right before it moves, so it may not have.

    Where no `done` says so, the alias's next entry tells, or where the alias is now: the process was killed in between,
    or an earlier version of qsweep wrote the entry. A person may have moved the alias since.
    """
    entry = model.history[place]
    if entry.done:
        return True
    later = [other for other in model.history[place + 1 :] if other.alias == entry.alias]
    return (later[0].previous if later else model.aliases.get(entry.alias)) == entry.version


def interrupted(model: Model, alias: str) -> str | None:
    """The version that the last rollback of the alias was going to, when it was interrupted before the alias moved."""
    begun = [place for place, entry in enumerate(model.history) if entry.alias == alias]
    if not begun or _is_completed(model, begun[-1]) or model.history[begun[-1]].action != "rollback":
        return None
    return model.history[begun[-1]].version


def version_before(model: Model, alias: str) -> str | None:
    """The version that the present one was promoted over; None when there was none.

    A rollback takes promotions back, so that a second one does not return to what the first one left.
    """
    standing: list[str] = []  # those that were promoted one over the other, the present one last
    below: dict[str, list[str]] = {}  # version -> `standing` when it was promoted last, without itself
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
    """The promotions that stand after the alias moved to a version: those up to it."""
    if version in standing:
        last = len(standing) - standing[::-1].index(version)
        return standing[:last]
    return [*below.get(version, standing), version]


def taken_back(model: Model, alias: str, version: str) -> Entry | None:
    """The rollback by which an alias left a version, where the alias has not been there again since."""
    left = None
    for entry in moves(model, alias):
        if entry.previous == version:
            left = entry if entry.action == "rollback" else None
        elif entry.version == version:
            left = None
    return left


def in_words(time: float) -> str:
    """A time of the history, in UTC, as people read it."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def table_of_models(promoted: list[tuple[Model, dict[str, Version]]]) -> Table:
    """Shows the models, a line for each alias."""
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
    """Shows the moves of a model's aliases, the oldest first."""
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
    """A model as JSON data."""
    return {
        "model": model.name,
        "aliases": dict(model.aliases),
        "history": [
            {name: value for name, value in vars(entry).items() if name != "done"}
            | {"completed": _is_completed(model, place)}
            for place, entry in enumerate(model.history)
        ],
    }


# The way back


def rollback(
    name: str,
    to: str | None,
    alias: str,
    tracking_uri: str | None,
    clock: Callable[[], float] = time.time,
    say: Callable[[str], None] = lambda line: None,
) -> Entry:
    """Points an alias to an earlier version, by default to the one that the present one was promoted over.

    Returns the entry that the history has of it.

    Args:
        to: the version to go back to; None for the one before.
        tracking_uri: the store; None for the usual one.
        say: is told that a promotion has to end first.

    Raises:
        SweepError: there is nothing to go back to.
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
    registry.remember(name, entry)
    fault_points.point("rollback.after_history")
    if now is not None:
        registry.point(name, previous(alias), now)
    fault_points.point("rollback.after_previous")
    registry.point(name, alias, target)
    registry.mark_done(name, entry)
    return entry
