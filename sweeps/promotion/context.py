"""What a promotion was asked to do, and what each of its steps is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from sweeps.config import checks, messages
from sweeps.config.model import Promotion as Policy
from sweeps.config.passwords import without_passwords
from sweeps.errors import ConfigError, SweepError
from sweeps.tracking.client import Say
from sweeps.tracking.lookup import Lookup, TrackedSweep
from sweeps.tracking.registry import Registry
from sweeps.tracking.stores import NamedSweep
from trainables.objective import Objective


@dataclass(frozen=True)
class PromotionRequest:
    """What the command line asks for."""

    place: NamedSweep
    """The store and the sweep in it."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """Fields of the sweep file's promotion section that are replaced; None leaves a field as it is."""
    eval_data: Path | None = None
    trial: str | None = None
    """The only candidate: a trial's key, or its number as tables show it (t03)."""
    address: str | None = None
    """Of the Ray cluster that evaluates; this machine when None."""
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class Context:
    """What every step of one promotion reads."""

    request: PromotionRequest
    policy: Policy
    objective: Objective
    """What ranks the candidates."""
    model: str
    """The registered model's name."""
    sweep: TrackedSweep
    lookup: Lookup
    registry: Registry
    say: Say
    forced: list[str] = field(default_factory=list)
    """The objections that --force has overridden so far: all that a step adds."""

    @property
    def alias(self) -> str:
        """The alias that the winner is to have."""
        return self.policy.alias

    def force(self, objection: str) -> None:
        """Says that --force overrides an objection, and notes it for the version's tags and description.

        Raises:
            SweepError: the request does not force.
        """
        objection = without_passwords(objection)
        if not self.request.force:
            raise SweepError(f"{objection}; --force does it all the same, and the version says so")
        self.say(f"forced: {objection}")
        self.forced.append(objection)


def policy_of(given: Mapping[str, object], of_file: Policy) -> Policy:
    """The sweep file's policy with what options give, field by field. Raises `ConfigError`, which names the option."""
    given = {name: value for name, value in given.items() if value is not None}
    try:
        policy = Policy.model_validate({**of_file.model_dump(), **given})
    except ValidationError as error:
        lines = (line.partition(":") for line in messages.of_validation(error, given))
        raise ConfigError([f"--{name.replace('_', '-')}:{rest}" for name, _, rest in lines]) from None
    if wrong := checks.alias("--alias", policy.alias):
        raise ConfigError(wrong)
    return policy
