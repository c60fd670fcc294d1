"""Decides which driver may write a mirror: one driver at a time, as long as it renews its lease.

The clocks of two machines differ, so nobody compares them. A lease has lapsed once a waiting driver has itself seen the
lease unchanged for as long as the lease lasts.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from sweeps.errors import StorageError
from sweeps.mirror import timeouts
from sweeps.mirror.store import Conflict, Store, StoreError, Version
from trainables.specs import Spec

LEASE = "lease.json"
Verdict = Literal["take", "wait", "refuse"]
Say = Callable[[str], None]


class Lease(Spec):
    """The right of one driver to write a mirror."""

    holder: str
    """Id that no other driver has."""
    token: int
    """Grows with each driver. A manifest with a lower token is from a driver that was replaced."""
    beat: int = 0
    """Grows with each renewal, also with a failed one, so that no content of the object is written twice."""
    seconds: float
    """Seconds that the lease lasts without a renewal."""
    machine: str
    process: int
    is_released: bool = False
    """Whether its driver has ended in order."""

    @property
    def who(self) -> str:
        """Names its driver, for people."""
        return f"the driver on {self.machine} (process {self.process})"


def verdict(first: Lease, seen: Lease, unchanged_seconds: float, own: str | None = None) -> Verdict:
    """Tells whether a driver takes the lease over, looks again, or leaves the lease to a driver that lives. Pure.

    Args:
        first: the lease at the driver's first look.
        seen: the lease now.
        unchanged_seconds: seconds for which the driver has seen the lease as it is now.
        own: holder that this driver replaces, a dead driver of the same folder; None if there is none.
    """
    if seen.is_released or seen.holder == own or unchanged_seconds >= seen.seconds:
        return "take"
    return "wait" if seen == first else "refuse"


def renewed(lease: Lease) -> Lease:
    """Returns the lease with one more beat."""
    return lease.model_copy(update={"beat": lease.beat + 1})


class Fenced(StorageError):  # noqa: N818 - reads as what happened
    """Another driver has taken the sweep over: this driver may no longer write its mirror."""


def uptime() -> float:
    """Returns seconds on a clock of this machine that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HeldLease:
    """A lease that this process holds."""

    def __init__(self, store: Store, lease: Lease, version: Version | None, since: float) -> None:
        """Holds a written lease; `since` is the `uptime` right before the write."""
        self._store = store
        self.lease = lease
        self._version = version
        self._confirmed = since
        self._ended = threading.Event()
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._thread = threading.Thread(target=self._run, name="mirror-lease", daemon=True)
        self.lost: str | None = None
        """Why another driver has the lease now; None while no such driver is known."""

    @property
    def token(self) -> int:
        """Returns `Lease.token`."""
        return self.lease.token

    def keep(self, on_lost: Callable[[str], None] = lambda _why: None) -> None:
        """Renews the lease from now on. Calls `on_lost` once, in another thread, if another driver takes over."""
        self._on_lost = on_lost
        self._thread.start()

    def check(self) -> None:
        """Checks that this driver may write now.

        Raises:
            Fenced: another driver has taken over, or this driver has given the lease back.
            StoreError: another driver may have taken over: the lease could not be renewed for as long as it lasts.
        """
        if self.lost is not None or self._ended.is_set():
            raise Fenced(self.lost or f"{self._store.uri}: the lease was given back")
        if uptime() - self._confirmed >= self.lease.seconds:
            raise StoreError(f"{self._store.uri}: the lease could not be renewed in time, and is asked for again")

    def lose(self, other: str) -> None:
        """Notes that another driver has taken over, and ends the renewals."""
        if self.lost is None:
            self.lost = (
                f"{self._store.uri}: {other} has taken this sweep over, since this one was not heard of for too long: "
                "this one ends here, and writes no more to the store or to MLflow; follow the sweep there"
            )
            self._ended.set()
            self._on_lost(self.lost)

    def release(self) -> None:
        """Gives the lease back. If the store does not answer, the lease lapses."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.lost is not None:
            return
        over = renewed(self.lease).model_copy(update={"is_released": True})
        try:
            self._store.write(LEASE, _written(over), self._version)
        except (StoreError, Conflict):
            return

    def _run(self) -> None:
        while not self._ended.wait(self.lease.seconds / timeouts.RENEWALS):
            try:
                self._renew()
            except Exception:  # whatever the store or its client raises
                continue  # The mirror says that the store does not answer; the next try finds the lease's holder.

    def _renew(self) -> None:
        self.lease, since = renewed(self.lease), uptime()
        try:
            self._version = self._store.write(LEASE, _written(self.lease), self._version)
        except Conflict:
            found = read(self._store)
            if found is not None and found[0].holder != self.lease.holder:
                self.lose(found[0].who)
                return
            # Somebody deleted the lease, or the answer to an earlier renewal was lost.
            self._version = self._store.write(LEASE, _written(self.lease), found[1] if found else None)
        self._confirmed = since


def read(store: Store) -> tuple[Lease, Version] | None:
    """Returns the present lease; None if there is none. Raises `StoreError` if it is damaged."""
    found = store.read(LEASE)
    try:
        return None if found is None else (Lease.model_validate_json(found[0]), found[1])
    except ValidationError:
        raise StoreError(f"{store.uri}/{LEASE}: is damaged: delete it, once no driver of the sweep is alive") from None


def claim(store: Store) -> HeldLease | None:
    """Takes the lease of a mirror that does not exist yet; None if there is a lease."""
    return _write(store, None, None, 0)


def take(
    store: Store,
    say: Say,
    own: str | None = None,
    floor: int = 0,
    clock: Callable[[], float] = uptime,
    pause: Callable[[float], object] = lambda seconds: threading.Event().wait(seconds),
) -> HeldLease:
    """Waits for the lease of a mirror and takes it; see `verdict` for `own`. The new token is higher than `floor`.

    Raises:
        StorageError: a living driver holds the lease.
        StoreError: the store does not answer.
    """
    first = seen = None
    since = 0.0
    while True:
        found = read(store)
        lease, version = found or (None, None)
        if lease is not None:
            if lease != seen:
                seen, since = lease, clock()
            answer = verdict(first or lease, lease, clock() - since, own)
            if answer == "refuse":
                raise StorageError(
                    f"{store.uri}: {lease.who} drives this sweep: its lease was renewed just now and lives until "
                    f"{_in(lease.seconds)} at least; wait until that driver ends, or stop it there"
                )
            if answer == "wait":
                if first is None:
                    say(
                        f"{store.uri}: {lease.who} has not ended in order: this one waits until {_in(lease.seconds)}, "
                        "and takes over unless that driver is heard of"
                    )
                first = first or lease
                pause(min(timeouts.LOOK_SECONDS, lease.seconds / timeouts.RENEWALS / 2))
                continue
        held = _write(store, lease, version, floor)
        if held is not None:
            return held


def _write(store: Store, before: Lease | None, version: Version | None, floor: int) -> HeldLease | None:
    """Writes a lease for this process in place of `before`; None if another driver was faster."""
    mine = Lease(
        holder=uuid.uuid4().hex,
        token=max(floor, 0 if before is None else before.token) + 1,
        seconds=timeouts.LEASE_SECONDS,
        machine=socket.gethostname(),
        process=os.getpid(),
    )
    since = uptime()
    try:
        return HeldLease(store, mine, store.write(LEASE, _written(mine), version), since)
    except Conflict:
        return None


def _written(lease: Lease) -> bytes:
    return lease.model_dump_json().encode()


def _in(seconds: float) -> str:
    """Formats the time of day in `seconds` from now, by this machine's clock."""
    return f"{datetime.fromtimestamp(time.time() + seconds, UTC).astimezone():%H:%M:%S}"
