"""Replaces parts of Ray Tune 2.60 that have no setting. The project replaces nothing else of Tune.

| replaced while trials run | why |
|---|---|
| `TuneController._trial_task_failure` | the decision after the death of a trial process: see `survived` |
| `RayActorManager._actor_task_failed` | the decision after a death by Ray's memory monitor: see `survived` |
| two constants of `class_cache` | Tune would copy credentials to the processes of trials: see `without_secrets` |

Settings of Tune are elsewhere: variables in `cluster.connect.ENVIRONMENT`, arguments in `experiment`, the choice of the
next trial in `trial_events.RuleScheduler`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from cluster.libraries import replaced
from sweeps.tune.trial_files import Holder

DEATHS = 3
"""Deaths of a trial process in a row, with nothing saved in between, that end the trial."""


class Deaths:
    """Counts the deaths of trial processes. The loss of a host or of the process's own node does not count."""

    def __init__(
        self,
        saved: Callable[[str], object],
        holder: Callable[[str], Holder | None] = lambda _trial_key: None,
        staying: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Starts with no deaths.

        Args:
            saved: returns a value that changes whenever the trial of a key saves something.
            holder: returns the latest process of a trial among those that may be on any node.
            staying: returns Ray's ids of the nodes that are alive and do not end soon.
        """
        self._saved = saved
        self._holder = holder
        self._staying = staying
        self._known: dict[str, tuple[object, list[str]]] = {}
        """Trial key -> the value of `saved`, and the nodes of processes that died since; "" for the driver's node."""

    def may_go_on(self, trial_key: str, attempt: int) -> bool:
        """Tells whether the trial gets another process after the death of its process; see `Holder.attempt`."""
        saved, holder = self._saved(trial_key), self._holder(trial_key)
        # If the attempt differs, the process was on this node, or died before the keeper knew it.
        node_id = holder.node_id if holder is not None and holder.attempt == attempt else ""
        before, nodes = self._known.get(trial_key, (saved, []))
        nodes = [*(nodes if saved == before else []), node_id]
        self._known[trial_key] = saved, nodes
        staying = self._nodes() if any(nodes) else ()
        return sum(not each or each in staying for each in nodes) < DEATHS

    def _nodes(self) -> Collection[str]:
        """Returns the nodes that stay. Asks Ray each time, because Ray notices a lost node only after seconds."""
        try:
            return self._staying()
        except Exception:  # What Ray raises when its head service does not answer: no trial is to blame for that.
            return ()


@contextmanager
def survived(deaths: Deaths) -> Iterator[None]:
    """While the block runs, a trial whose process dies gets another process, also after a kill by the memory monitor.

    Tune has three defects here. Tune counts the deaths over the whole trial. Tune gives up the experiment after a kill
    by the memory monitor, because a call to the killed process raises no RayActorError, and Tune's actor manager takes
    the error for an unexpected one (air/execution/_internal/actor_manager.py).

    Third, Tune keeps processes for reuse. If a kept process has died, Tune gives up or forgets the trial that gets this
    process: Tune handles the death twice, the second time while the trial waits again, and the trial stays in
    `_resetting_trials` (tune/execution/tune_controller.py).
    """
    failed, trial_failed = RayActorManager._actor_task_failed, TuneController._trial_task_failure

    def told(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    def told_once(self: TuneController, trial: Trial, exception: Exception) -> None:
        self._resetting_trials.discard(trial)
        if trial.status == Trial.PENDING and trial not in self._trial_to_actor:
            return
        if trial.status == Trial.RUNNING:
            may_go_on = deaths.may_go_on(trial.config["trial_key"], trial.config["attempt"])
            trial.max_failures = -1 if may_go_on else 0  # -1: Tune starts the trial again; 0: Tune ends the trial.
        trial_failed(self, trial, exception)

    with replaced(RayActorManager, _actor_task_failed=told), replaced(TuneController, _trial_task_failure=told_once):
        yield


def without_secrets() -> AbstractContextManager[None]:
    """While the block runs, Tune copies no environment variable of this process to trial processes.

    Tune would copy AWS credentials among others, and Ray's agent on the trial's node would write them into a log that
    everyone on that node can read (tune/execution/class_cache.py). Trials need none of these variables. Trial processes
    inherit the environment of Ray's daemons; `cluster.connect` cleans that of a Ray that the sweep starts. A trial
    without variables of its own can also use a process that Ray has started in advance.
    """
    return replaced(class_cache, DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset())
