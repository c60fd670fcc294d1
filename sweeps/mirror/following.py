"""The thread that keeps a sweep's mirror. Training never waits for it.

What the store does not take is sent later, as the folder stands then.
"""

from __future__ import annotations

from collections.abc import Callable

from sweeps.errors import StorageError
from sweeps.mirror import timeouts
from sweeps.mirror.lease import Fenced, HeldLease
from sweeps.mirror.sending import Sender
from sweeps.mirror.store import Store
from sweeps.record.delivery import Delivery, Over, Pace
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal


class Follower:
    """Keeps a mirror for as long as its lease is held."""

    def __init__(
        self,
        store: Store,
        held: HeldLease,
        folder: SweepFolder,
        journal: Journal,
        sweep_id: str,
        say: Callable[[str], None],
    ) -> None:
        """Sends nothing yet."""
        self.uri = store.uri
        self._journal, self._say = journal, say
        self._sender = Sender(store, held, folder, journal, sweep_id)
        every, longest = timeouts.EVERY_SECONDS, timeouts.LONGEST_PAUSE_SECONDS
        self._delivery = Delivery(
            "mirror", self._follow, self._failed, Pace(every, every, longest, timeouts.PATIENCE_SECONDS)
        )
        self._has_trouble = False
        self._has_left = False
        """The driver waits no longer: what the thread still finds is no news."""

    def start(self) -> None:
        """Begins to send."""
        self._delivery.start()

    @property
    def is_busy(self) -> bool:
        """Whether the thread waits for the store."""
        return self._delivery.is_busy

    def drain(self, seconds: float, is_leaving: Callable[[], bool]) -> str | None:
        """Waits until all is sent, `seconds` are over, or the caller leaves; what the mirror then lacks, in words."""
        self._delivery.drain(
            seconds,
            is_leaving,
            lambda: self._say(f"mirror: waiting up to {seconds:.0f} s for {self.uri}; Ctrl-C leaves without it"),
        )
        return None if self._delivery.is_done else self._behind()

    def leave(self) -> None:
        """Ends the thread, once it has sent what changed or the store does not answer."""
        self.drain(timeouts.PATIENCE_SECONDS, lambda: False)
        self._has_left = True

    def _behind(self) -> str:
        log_bytes = max(0, self._journal.log.length - self._sender.manifest.log_bytes)
        trials = len(self._sender.lacking())
        lacks = [f"{log_bytes} bytes of the event log"] if log_bytes else []
        lacks += [f"files of {trials} trial{'' if trials == 1 else 's'}"] if trials else []
        return " and ".join(lacks) or "the last changes of its small files"

    def _follow(self) -> None:
        try:
            self._sender.send()
        except Fenced:
            raise Over from None
        if self._has_trouble:
            self._say(f"mirror: {self.uri} is back, and holds everything")
        self._has_trouble = False

    def _failed(self, error: Exception) -> None:
        if self._is_over():
            raise Over
        if not self._has_trouble:
            told = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
            self._say(f"mirror: {told}; training goes on, and the mirror follows later")
        self._has_trouble = True

    def _is_over(self) -> bool:
        """Whether nobody listens any more, or the folder is gone: then the sweep ends itself, and says why."""
        try:
            return self._has_left or not self._journal.log.is_in_place()
        except ValueError:
            return True  # The log is closed.
