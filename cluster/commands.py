"""What a host's loop does between two steps. No Ray."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.pace import Work
from trainables.isolation import is_sticky

Result = TypeVar("Result")


@dataclass(frozen=True)
class Command(Generic[Result]):
    """An action to run between two steps, and the future on which its caller waits."""

    action: Callable[[], Result]
    future: Future[Result]
    what: Work = "change of trials"

    def begin(self) -> bool:
        """Whether it is to be run: a caller that went away has cancelled its future."""
        return self.future.set_running_or_notify_cancel()

    def run(self) -> None:
        """Runs the action, once it has begun; raises only what spoils the whole process, see `is_sticky`."""
        try:
            result = self.action()
        except Exception as error:
            if is_sticky(error):
                raise  # The caller hears it as everybody else does, once the loop is known to be broken.
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, error: Exception) -> None:
        """Gives the caller an error in place of a result."""
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
