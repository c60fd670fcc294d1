"""What is wrong with a promotion, told within a second or two: before MLflow is imported, as far as that is known."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.scoring.host import can_score
from sweeps.config.model import Promotion as Policy
from sweeps.config.model import SweepConfig
from sweeps.errors import SweepError
from sweeps.promotion import candidates
from sweeps.promotion.context import PromotionRequest, policy_of
from sweeps.tracking import first_look
from trainables.objective import Objective


@dataclass(frozen=True)
class Settled:
    """What the request and the sweep's configuration settle."""

    policy: Policy
    model: str
    """The registered model's name."""
    objective: Objective
    """What ranks the candidates."""


def settle(request: PromotionRequest, config: SweepConfig) -> Settled:
    """What the request and the configuration settle.

    Raises:
        SweepError, HostError: they name no model, the request does not say which trial is the best, or the sweep's
            trainable has no adapters to promote.
    """
    policy = policy_of(request.policy, config.promotion)
    if policy.model is None:
        raise SweepError("--model: name the registered model, or set promotion.model in the sweep file")
    objective = candidates.ranking(config, policy.metric, request.trial)
    can_score(config.trainable)
    return Settled(policy, policy.model, objective)


def check(request: PromotionRequest) -> None:
    """Refuses what can be refused without MLflow.

    Raises:
        SweepError, HostError: see `settle`; or there is no trial that --trial names.
    """
    policy_of(request.policy, Policy())
    place = request.place
    look = first_look.look(place.uri, place.sweep, place.folder)
    if look.config is not None:
        settle(request, look.config)
    if request.trial is not None and look.trials is not None:
        candidates.refuse_unknown(request.trial, look.sweep_id or place.sweep, look.trials)
