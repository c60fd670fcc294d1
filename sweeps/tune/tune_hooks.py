"""What is changed inside Ray Tune 2.60, since it has no setting there. Nothing else of Tune is replaced.

| changed while trials run | why |
|---|---|
| `TuneController._trial_task_failure` | what a death of a trial's process means: see `survived` |
| `RayActorManager._actor_task_failed` | what a death by Ray's memory monitor means: see `survived` |
| two constants of `class_cache` | Tune would copy credentials to the processes of trials: see `without_secrets` |

What Tune has settings for is set elsewhere: variables in `cluster.connect.ENVIRONMENT`, arguments in `experiment`, the
choice of the next trial in `trial_events.RuleScheduler`.
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
"""So many deaths of a trial's process in a row, with nothing saved in between, end the trial."""


class Deaths:
    """How often trials' own processes died. The loss of a host, or of the process's own node, is none."""

    def __init__(
        self,
        saved: Callable[[str], object],
        holder: Callable[[str], Holder | None] = lambda _trial_key: None,
        staying: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """None so far.

        Args:
            saved: what the trial of a key would go on from now.
            holder: the process that took a trial up last, of those that may be on another node than the driver's.
            staying: Ray's ids of the nodes that are there, and do not end soon.
        """
        self._saved = saved
        self._holder = holder
        self._staying = staying
        self._known: dict[str, tuple[object, list[str]]] = {}
        """Trial key -> what was saved, and the nodes of the processes that died since; empty where not known."""

    def may_go_on(self, trial_key: str, attempt: int) -> bool:
        """Whether the trial gets another process after the death of the one of this attempt; see `Holder.attempt`."""
        saved, holder = self._saved(trial_key), self._holder(trial_key)
        # Another number: the process that died was on this node, or died before it took the trial up.
        node_id = holder.node_id if holder is not None and holder.attempt == attempt else ""
        before, nodes = self._known.get(trial_key, (saved, []))
        nodes = [*(nodes if saved == before else []), node_id]
        self._known[trial_key] = saved, nodes
        staying = self._nodes() if any(nodes) else ()
        return sum(not each or each in staying for each in nodes) < DEATHS

    def _nodes(self) -> Collection[str]:
        """The nodes that stay. Looked at again each time: Ray takes seconds to notice that a node is gone."""
        try:
            return self._staying()
        except Exception:  # What Ray raises when its head service does not answer: no trial is to blame for that.
            return ()


@contextmanager
def survived(deaths: Deaths) -> Iterator[None]:
    """While the block runs, a trial whose process dies gets another, also when Ray's memory monitor ended it.

    Tune would count deaths over the whole trial. And it would give up the experiment after one by the memory monitor:
    what a call to such a process raises is no RayActorError, and Tune's manager of actors takes it for an unexpected
    exception (air/execution/_internal/actor_manager.py).

    And it would give up, or forget for ever, a trial that it gives a process which has died while it was kept for the
    next trial. Of such a death Tune tells itself twice, the second time of a trial that waits again, and the trial
    stays among those that are being given a process (tune/execution/tune_controller.py).
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
            trial.max_failures = -1 if may_go_on else 0  # Tune's own decision: again without end, or no more.
        trial_failed(self, trial, exception)

    with replaced(RayActorManager, _actor_task_failed=told), replaced(TuneController, _trial_task_failure=told_once):
        yield


def without_secrets() -> AbstractContextManager[None]:
    """While the block runs, Tune copies no variable of this process's environment to the processes of trials.

    It would copy AWS credentials among others, and Ray's agent on the trials' node writes what it is given into a log
    that everyone there can read (tune/execution/class_cache.py). Trials need none of them. What Ray's own daemons have
    in their environment they do have: for a Ray that the sweep starts see `cluster.connect`. Without variables of its
    own a trial also takes a process that Ray has started in advance.
    """
    return replaced(class_cache, DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset())
