"""Moves an alias back to an earlier version, and shows what was promoted so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from rich.table import Table

from sweeps.config.model import Promotion
from sweeps.errors import SweepError
from sweeps.promotion import version_files
from sweeps.promotion.context import policy_of
from sweeps.record import fault_points
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Entry, Model, Registry, Version, no_model, previous


@dataclass(frozen=True)
class RolledBack:
    """Says what a rollback changed."""

    model: str
    alias: str
    version: str
    before: str | None
    """The version that the alias pointed to before."""

    def as_json(self) -> dict[str, Any]:
        """The line that --json prints."""
        return {"model": self.model, "alias": self.alias, "version": self.version, "previous": self.before}


def rollback(
    name: str,
    to: str | None,
    alias: str,
    tracking_uri: str | None,
    clock: Callable[[], float] = time.time,
    say: Callable[[str], None] = lambda line: None,
) -> RolledBack:
    """Points an alias to an earlier version, by default to the one that the present one was promoted over.

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


def _roll_back(registry: Registry, name: str, to: str | None, alias: str, clock: Callable[[], float]) -> RolledBack:
    model = _ours(registry, name)
    now = model.aliases.get(alias)
    target = to if to is not None else _interrupted(model, alias) or version_before(model, alias)
    if target is None:
        raise SweepError(_nothing_before(model, alias))
    version = registry.version(name, target)
    target = version.number  # MLflow takes 01 for 1
    if not version.is_complete:
        raise SweepError(f"--to: version {target} of {name} was never promoted to its end")
    if target == now:
        raise SweepError(f"{name}: version {target} is the {alias} already: name another with --to")
    version_files.fetch(Lookup(registry.uri), name, version)
    entry = Entry(clock(), "rollback", alias, target, now, version.tags.get("sweep.id", ""))
    registry.remember(name, entry)
    fault_points.point("rollback.after_history")
    if now is not None:
        registry.point(name, previous(alias), now)
    fault_points.point("rollback.after_previous")
    registry.point(name, alias, target)
    registry.mark_done(name, entry)
    return RolledBack(name, alias, target, now)


def models(name: str | None, tracking_uri: str | None) -> list[tuple[Model, dict[str, Version]]]:
    """The promoted models, or the one of a name, each with its versions by alias.

    Raises:
        SweepError: there is no model of the name.
    """
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry = Registry(uri)
        chosen = registry.models() if name is None else [_ours(registry, name)]
        return [
            (model, {alias: registry.version(model.name, number) for alias, number in model.aliases.items()})
            for model in chosen
        ]


def _interrupted(model: Model, alias: str) -> str | None:
    """The version that the last rollback of the alias was going to, when it was interrupted before the alias moved."""
    moves = [place for place, entry in enumerate(model.history) if entry.alias == alias]
    if not moves or _is_completed(model, moves[-1]) or model.history[moves[-1]].action != "rollback":
        return None
    return model.history[moves[-1]].version


def version_before(model: Model, alias: str) -> str | None:
    """The version that the present one was promoted over; None when there was none.

    A rollback takes promotions back, so that a second one does not return to what the first one left.
    """
    standing: list[str] = []  # those that were promoted one over the other, the present one last
    below: dict[str, list[str]] = {}  # version -> `standing` when it was promoted last, without itself
    for place, entry in enumerate(model.history):
        if entry.alias != alias or not _is_completed(model, place):
            continue
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


def _nothing_before(model: Model, alias: str) -> str:
    """Says that the present version was promoted over none, which rollbacks led to it, and what the way out is."""
    now = model.aliases.get(alias)
    moves = [entry for place, entry in enumerate(model.history) if entry.alias == alias and _is_completed(model, place)]
    back = list(takewhile(lambda entry: entry.action == "rollback", reversed(moves)))[::-1]
    if now is None or not back:
        return f"{model.name}: no version was the {alias} before: there is nothing to go back to; name one with --to"
    made = ", ".join(f"{entry.previous or 'none'} to {entry.version} at {in_words(entry.time)} UTC" for entry in back)
    return (
        f"{model.name}: no version was the {alias} before version {now}: there is nothing further to go back to "
        f"(rolled back since the last promotion: {made}); name another with --to VERSION: qsweep models --model "
        f"{model.name} lists them"
    )


def taken_back(model: Model, alias: str, version: str) -> Entry | None:
    """The rollback by which an alias left a version, where the alias has not been there again since."""
    left = None
    for place, entry in enumerate(model.history):
        if entry.alias != alias or not _is_completed(model, place):
            continue
        if entry.previous == version:
            left = entry if entry.action == "rollback" else None
        elif entry.version == version:
            left = None
    return left


def _moved(standing: list[str], below: Mapping[str, list[str]], version: str) -> list[str]:
    """The promotions that stand after the alias moved to a version: those up to it."""
    if version in standing:
        last = len(standing) - standing[::-1].index(version)
        return standing[:last]
    return [*below.get(version, standing), version]


def table(promoted: list[tuple[Model, dict[str, Version]]]) -> Table:
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


def history(model: Model) -> Table:
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


def in_words(time: float) -> str:
    """A time of the history, in UTC, as people read it."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


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


def _is_completed(model: Model, place: int) -> bool:
    """Whether the alias moved as an entry says. Entries are written right before it moves, so it may not have.

    Where it is not written down that it did, the next entry tells, or where the alias is now: of a version that was
    killed in between, or an earlier one. A person may have moved the alias since.
    """
    entry = model.history[place]
    if entry.done:
        return True
    later = [other for other in model.history[place + 1 :] if other.alias == entry.alias]
    return (later[0].previous if later else model.aliases.get(entry.alias)) == entry.version


def _ours(registry: Registry, name: str) -> Model:
    model = registry.model(name)
    if model is None:
        raise SweepError(no_model(name, [each.name for each in registry.models()]))
    return model
