"""Takes the lease of a mirror, renews it in a thread of its own, and gives it back."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from sweeps.config import environment
from sweeps.errors import StorageError
from sweeps.record.mirror import stored
from sweeps.record.mirror.lease import Lease, Sighting, following, is_same_hold, renewed, sight, verdict
from sweeps.record.mirror.store import Conflict, Store, StoreError, Version

LEASE = "lease.json"
LEASE_SECONDS = environment.number("QSWEEP_LEASE_SECONDS", 60.0, 1.0, 3600.0)
"""How long another driver waits before it takes over from one that is not heard of."""
RENEWALS = 4
"""How often a lease is renewed while it lasts."""
LOOK_SECONDS = 1.0

Say = Callable[[str], None]


def new_lease() -> Lease:
    """A lease of this process, which has not been written."""
    return Lease(
        holder=uuid.uuid4().hex, token=0, seconds=LEASE_SECONDS, machine=socket.gethostname(), process=os.getpid()
    )


class Fenced(StorageError):  # noqa: N818 - reads as what happened
    """Another driver has taken the sweep over: this one may write its mirror no more."""


def uptime() -> float:
    """Seconds on a clock of this machine alone, which also goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Held:
    """A lease that this process holds."""

    def __init__(self, store: Store, lease: Lease, version: Version, since: float) -> None:
        """A lease that was written; `since` is the time just before, on `uptime`."""
        self._store = store
        self.lease = lease
        self._version = version
        self._confirmed = since
        self._ended = threading.Event()
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._thread = threading.Thread(target=self._run, name="mirror-lease", daemon=True)
        self.lost: str | None = None
        """Why the lease is another driver's now; None while it is not known to be."""

    @property
    def token(self) -> int:
        """See `Lease.token`."""
        return self.lease.token

    def keep(self, on_lost: Callable[[str], None] = lambda _why: None) -> None:
        """Renews the lease from now on; `on_lost` is called once, in another thread, if that fails for good."""
        self._on_lost = on_lost
        self._thread.start()

    def check(self) -> None:
        """Says whether this driver may write now.

        Raises:
            Fenced: another driver has taken over, or this one has given the lease back.
            StoreError: another may have taken over, since the lease could not be renewed for as long as it lasts.
        """
        if self.lost is not None or self._ended.is_set():
            raise Fenced(self.lost or f"{self._store.uri}: the lease was given back")
        if uptime() - self._confirmed >= self.lease.seconds:
            raise StoreError(f"{self._store.uri}: the lease could not be renewed in time, and is asked for again")

    def lose(self, other: str) -> None:
        """Another driver has taken over."""
        if self.lost is None:
            self.lost = (
                f"{self._store.uri}: {other} has taken this sweep over, since this one was not heard of for too long: "
                "this one ends here, and writes no more to the store or to MLflow; follow the sweep there"
            )
            self._ended.set()
            self._on_lost(self.lost)

    def leave(self) -> None:
        """Renews the lease no more: it lapses, unless it is taken up again before."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def release(self) -> None:
        """Gives the lease back; where the store does not answer, it lapses."""
        self.leave()
        if self.lost is not None:
            return
        over = renewed(self.lease).model_copy(update={"is_released": True})
        try:
            self._store.write(LEASE, _written(over), self._version)
        except (StoreError, Conflict):
            return

    def _run(self) -> None:
        while not self._ended.wait(self.lease.seconds / RENEWALS):
            try:
                self._renew()
            except Exception:  # whatever the store or its client did
                continue  # The mirror says that the store does not answer; the next try finds whose the lease is.

    def _renew(self) -> None:
        again, since = renewed(self.lease), uptime()
        try:
            self._version = self._store.write(LEASE, _written(again), self._version)
        except Conflict:
            found = read(self._store)
            if found is None:
                # Somebody deleted it: nobody else has it then.
                self._version = self._store.write(LEASE, _written(again), None)
            elif is_same_hold(again, found[0]):
                # A renewal whose answer was lost, who knows how long ago: from here it is renewed once more.
                self.lease, self._version = found
                since = uptime()
                again = renewed(self.lease)
                self._version = self._store.write(LEASE, _written(again), self._version)
            else:
                self.lose(found[0].who)
                return
        self.lease, self._confirmed = again, since


def read(store: Store) -> tuple[Lease, Version] | None:
    """The lease as it stands; None when there is none. See `stored.read`."""
    return stored.read(store, LEASE, Lease)


def claim(store: Store) -> Held | None:
    """The lease of a mirror that is not there yet; None when it is."""
    return _write(store, following(new_lease(), None), None)


def take(
    store: Store,
    say: Say,
    own: str | None = None,
    floor: int = 0,
    clock: Callable[[], float] = uptime,
    pause: Callable[[float], object] = lambda seconds: threading.Event().wait(seconds),
) -> Held:
    """Waits for the lease of a mirror and takes it.

    Args:
        own: the holder that this driver stands in for; see `verdict`.
        floor: a token that was used before.
        clock: seconds, of this process alone.

    Raises:
        StorageError: a driver holds it and is alive.
        StoreError: the store does not answer.
    """
    first: Lease | None = None
    seen: Sighting | None = None
    while True:
        found = read(store)
        if found is not None:
            seen = sight(seen, found[0], clock())
            answer = verdict(first or found[0], seen, clock(), own)
            if answer == "refuse":
                raise StorageError(_refusal(store, seen.lease))
            if answer == "wait":
                if first is None:
                    say(_waiting(store, seen.lease))
                first = first or found[0]
                pause(min(LOOK_SECONDS, seen.lease.seconds / RENEWALS / 2))
                continue
        held = _write(store, following(new_lease(), found[0] if found else None, floor), found[1] if found else None)
        if held is not None:
            return held


def _refusal(store: Store, lease: Lease) -> str:
    return (
        f"{store.uri}: {lease.who} drives this sweep: its lease was renewed just now and lives until "
        f"{_in(lease.seconds)} at least; wait until that driver ends, or stop it there"
    )


def _waiting(store: Store, lease: Lease) -> str:
    return (
        f"{store.uri}: {lease.who} has not ended in order: this one waits until {_in(lease.seconds)}, and takes over "
        "unless that driver is heard of"
    )


def _write(store: Store, mine: Lease, before: Version | None) -> Held | None:
    """The lease once it is written; None when somebody else was faster."""
    since = uptime()
    try:
        version = store.write(LEASE, _written(mine), before)
    except Conflict:
        found = read(store)
        if found is None or not is_same_hold(mine, found[0]):
            return None
        version = found[1]  # it was written, and the answer lost
    return Held(store, mine, version, since)


def _written(lease: Lease) -> bytes:
    return lease.model_dump_json().encode()


def _in(seconds: float) -> str:
    """The time of day in so many seconds, by this machine's clock."""
    return f"{datetime.fromtimestamp(time.time() + seconds, UTC).astimezone():%H:%M:%S}"
