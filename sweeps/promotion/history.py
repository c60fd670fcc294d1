"""Tells what was promoted so far: the models with their aliases, and where an alias pointed before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from sweeps.errors import SweepError
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.registry import Entry, Model, Registry, Version, no_model, previous


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
