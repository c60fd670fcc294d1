"""Settles the policy, the objective and the model name of a promotion, from options and the sweep file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from cluster.scoring.host import can_score
from sweeps.config import checks, messages
from sweeps.config.model import Promotion as Policy
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import hidden
from sweeps.errors import ConfigError, SweepError
from sweeps.tracking.lookup import Lookup, TrackedSweep
from sweeps.tracking.registry import Registry
from sweeps.tracking.stores import NamedSweep
from trainables import catalogue
from trainables.objective import EVAL_LOSS, Direction, Objective


@dataclass(frozen=True)
class PromotionRequest:
    """A request to promote from a sweep."""

    place: NamedSweep
    """The store, and the sweep in it."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """Field of the sweep file's promotion section -> value that replaces it; None leaves the field as it is."""
    eval_data: Path | None = None
    trial: str | None = None
    """The only candidate: a trial's key, or its number as tables show it (t03)."""
    address: str | None = None
    """The Ray cluster that evaluates; None for this machine."""
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class Context:
    """State that all steps of one promotion read."""

    request: PromotionRequest
    policy: Policy
    objective: Objective
    """Metric that ranks the candidates and decides."""
    model: str
    """Name of the registered model."""
    sweep: TrackedSweep
    lookup: Lookup
    registry: Registry
    say: Callable[[str], None]
    forced: list[str] = field(default_factory=list)
    """Objections that --force has overridden so far, for the version's tags and description."""
    left_out: int = 0
    """Number of candidates that `candidates.not_worse` left out."""

    @property
    def alias(self) -> str:
        """Returns the alias that moves to the winner."""
        return self.policy.alias

    def force(self, objection: str) -> None:
        """Overrides an objection: says it, adds it to `forced`. Raises `SweepError` if the request does not force."""
        objection = hidden(objection)
        if not self.request.force:
            raise SweepError(f"{objection}; --force does it all the same, and the version says so")
        self.say(f"forced: {objection}")
        self.forced.append(objection)


def settle(request: PromotionRequest, config: SweepConfig) -> tuple[Policy, Objective, str]:
    """Returns the policy, the objective that ranks the candidates, and the registered model's name.

    Raises:
        SweepError: no model is named, or several objectives leave open which trial is the best.
        HostError: the sweep's trainable has no adapters to promote.
    """
    policy = policy_of(request.policy, config.promotion)
    if policy.model is None:
        raise SweepError("--model: name the registered model, or set promotion.model in the sweep file")
    objective = ranking(config, policy.metric, request.trial)
    can_score(config.trainable)
    return policy, objective, policy.model


def policy_of(given: Mapping[str, object], of_file: Policy) -> Policy:
    """Merges options into the sweep file's policy, field by field. Raises `ConfigError`, which names the option."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        policy = Policy.model_validate({**of_file.model_dump(), **given})
    except ValidationError as error:
        lines = (line.partition(":") for line in messages.of_validation(error, given))
        raise ConfigError([f"--{name.replace('_', '-')}:{rest}" for name, _, rest in lines]) from None
    if wrong := checks.alias("--alias", policy.alias):
        raise ConfigError(wrong)
    return policy


def ranking(config: SweepConfig, metric: str | None, trial: str | None) -> Objective:
    """Returns the objective that ranks the candidates: the named metric, else the sweep's objective. Pure.

    Raises:
        SweepError: the sweep has several objectives, and nothing says which of its trials is wanted.
        TrainableError: as `direction`.
    """
    objectives = config.objectives
    if metric is None and len(objectives) > 1 and trial is None:
        names = " and ".join(objective.metric for objective in objectives)
        raise SweepError(
            f"the sweep has several objectives ({names}), and no trial is the best in all of them: choose one of its "
            "Pareto set with --trial KEY, or rank by one metric with --metric NAME"
        )
    if metric is None:
        return objectives[0]
    known = {objective.metric: objective for objective in objectives}
    return known.get(metric) or Objective(metric=metric, mode=direction(config, metric))


def direction(config: SweepConfig, metric: str) -> Direction:
    """Tells which value of a metric is better. A score is better if higher, another metric if lower, unless declared.

    Raises `TrainableError` if the trainable's metrics cannot be read, for example if a user's function is not here.
    """
    if metric == EVAL_LOSS:
        return "min"
    undeclared: Direction = "max" if config.evaluation.scores_by(metric) else "min"
    return catalogue.metrics(catalogue.find(config.trainable), config.base).get(metric, undeclared)
