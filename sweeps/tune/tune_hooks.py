"""Replaces parts of Ray Tune 2.60 that have no setting. The project replaces nothing else of Tune.

| replaced while trials run | why |
|---|---|
| `TuneController._trial_task_failure` | the decision after the death of a trial process: see `survived` |
| `RayActorManager._actor_task_failed` | the decision after a death by Ray's memory monitor: see `survived` |
| two constants of `class_cache` | Tune would copy credentials to the processes of trials: see `without_secrets` |

Settings of Tune are elsewhere: variables in `cluster.connect.ENVIRONMENT`, arguments in `experiment`, the choice of the
next trial in `tune_callbacks.RuleScheduler`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from cluster.deaths import Deaths
from cluster.libraries import replaced


@contextmanager
def survived() -> Iterator[None]:
    """While the block runs, a trial whose stub dies gets another stub, also after a kill by the memory monitor.

    Deaths in a row with no result in between end the trial (see `Deaths`), else a stub that cannot live would be made
    for ever. Tune has three defects here. First, Tune counts the deaths over the whole trial. Second, Tune gives
    up the experiment after a kill by the memory monitor, because a call to the killed process raises no RayActorError,
    and Tune's actor manager takes the error for an unexpected one (air/execution/_internal/actor_manager.py).

    Third, Tune keeps processes for reuse. If a kept process has died, Tune gives up or forgets the trial that gets
    this process: Tune handles the death twice, the second time while the trial waits again, and the trial stays in
    `_resetting_trials` (tune/execution/tune_controller.py).
    """
    deaths = Deaths()
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
            stub = trial.trial_id, (trial.last_result or {}).get("step", 0)
            deaths.add(stub, error=exception)
            # -1: Tune starts the trial again; 0: Tune ends the trial.
            trial.max_failures = 0 if deaths.is_guilty(stub) else -1
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
