"""What is wrong with a promotion, as far as options and the sweep's folder tell it, before MLflow is imported."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.scoring.host import can_score
from sweeps.config.model import Promotion as Policy
from sweeps.config.model import SweepConfig
from sweeps.errors import SweepError
from sweeps.promotion import candidates
from sweeps.promotion.context import PromotionRequest, policy_of
from sweeps.record.folder import SweepFolder
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
        SweepError, HostError: see `settle`.
    """
    policy_of(request.policy, Policy())
    if request.place.folder is None:
        return
    try:
        config = SweepConfig.model_validate(SweepFolder(request.place.folder).document()["config"])
    except (OSError, ValueError):
        return  # The configuration in MLflow counts, and is read next.
    settle(request, config)
