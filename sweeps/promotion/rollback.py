"""Moves an alias back to an earlier version."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sweeps.config.model import Promotion
from sweeps.errors import SweepError
from sweeps.promotion import history, version_files
from sweeps.promotion.context import policy_of
from sweeps.record import fault_points
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Entry, Model, Registry, previous


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
    model = history.named(registry, name)
    now = model.aliases.get(alias)
    target = to if to is not None else history.interrupted(model, alias) or history.version_before(model, alias)
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


def _nothing_before(model: Model, alias: str) -> str:
    """Says that the present version was promoted over none, which rollbacks led to it, and what the way out is."""
    now = model.aliases.get(alias)
    back = list(takewhile(lambda entry: entry.action == "rollback", reversed(history.moves(model, alias))))[::-1]
    if now is None or not back:
        return f"{model.name}: no version was the {alias} before: there is nothing to go back to; name one with --to"
    made = ", ".join(
        f"{entry.previous or 'none'} to {entry.version} at {history.in_words(entry.time)} UTC" for entry in back
    )
    return (
        f"{model.name}: no version was the {alias} before version {now}: there is nothing further to go back to "
        f"(rolled back since the last promotion: {made}); name another with --to VERSION: qsweep models --model "
        f"{model.name} lists them"
    )
