"""Ray Tune's trial: a stub that asks the broker for the trial's next result. The broker runs the trial."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from cluster import broker
from cluster.hosts import PROCESS_LOST
from sweeps import timeouts
from sweeps.record.events import TrialState
from sweeps.tune.active_trial import ResultRequest, final
from sweeps.tune.actor_calls import ask
from sweeps.tune.trial_progress import LastReport

PROCESS_BYTES = 128 * 2**20
"""Memory of one stub; see docs/speed.md."""
ON_HEAD = tune.PlacementGroupFactory([{"node:__internal_head__": 0.0001}])
"""Resources of a stub on the head node: no CPU, because the stub only waits. Ray counts no smaller share, so a cluster
runs at most 10,000 stubs at once."""
ANYWHERE = tune.PlacementGroupFactory([{"memory": PROCESS_BYTES}])
"""Resources of a stub on any node. Every node has memory, and Ray picks the node with the most free memory."""
LOST = "the broker is lost, and no other was made: go on with qsweep resume"


class TrialStub(tune.Trainable):
    """Ray Tune's trial. One `step` returns the result that follows those that Tune has. A stub made anew asks again."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Returns the resources that Ray Tune requests for the stub."""
        return ANYWHERE if config["is_anywhere"] else ON_HEAD

    def setup(self, config: dict[str, Any]) -> None:
        """Finds the broker."""
        self._broker = ray.get_actor(broker.NAME)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepares this process for another trial."""
        self._reported, self._is_open = LastReport(**new_config["reported"]), False
        return True

    def step(self) -> dict[str, Any]:
        """Returns the trial's next result for Tune. Ends the sweep in order if there is no broker any more."""
        question = ResultRequest(self.config, self._reported, self._is_open)
        key, number = self.config["trial_key"], self.config["run"]
        told: dict[str, Any] | None = None
        try:
            while told is None:
                told = ask(self._broker, "next_result", key, number, question, timeouts.RESULT_SECONDS)
        except PROCESS_LOST:
            return final(TrialState.PAUSED, LOST) | {"ends_sweep": "failed"}
        if "report" in told:
            report = told["report"]
            self._reported = LastReport(report.step, report.best_step, report.best_metrics)
        self._is_open = self._is_open or "opened" in told
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Does nothing, because the sweep's folder holds the trial's state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Does nothing; see `save_checkpoint`."""
