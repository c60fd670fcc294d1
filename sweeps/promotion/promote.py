"""Promotion: a sweep's best adapters evaluated again, compared with what they would replace, and registered.

Nothing is written before the gate has passed; then every write can be done twice, and the alias moves last. Two at once
do not both win: see `sweeps.promotion.registration`, and `sweeps.tracking.registry` for what remains of the race on a
server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cluster.scoring import Scoring, can_score, scoring
from sweeps.config import messages
from sweeps.config.model import Promotion as Policy
from sweeps.errors import ConfigError, SweepError
from sweeps.promotion.contest import Asked, Contest, Say
from sweeps.promotion.gate import Verdict
from sweeps.promotion.registration import Registered, Registration
from sweeps.tracking import stores
from sweeps.tracking.client import answering
from sweeps.tracking.lookup import Lookup
from trainables.specs import TrialSpec

Show = Callable[[Verdict], None]
ScoredBy = Callable[[TrialSpec, str | None], AbstractContextManager[Scoring]]


@dataclass(frozen=True)
class Outcome:
    """How a promotion ended."""

    model: str
    alias: str
    verdict: Verdict
    registered: Registered
    already: bool
    """Whether the winner was the champion before."""
    previous: str | None
    """The version that the alias pointed to before."""
    dry_run: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the alias does not point to the winner; empty when it does, and for a dry run that would."""
        passed = self.verdict.passed or self.already
        return self.registered.reasons if passed else self.verdict.reasons

    @property
    def exit_code(self) -> int:
        """0 promoted, already champion, or a dry run that would have; 1 otherwise."""
        return 0 if self.registered.promoted or (self.dry_run and self.verdict.passed) else 1

    def as_json(self) -> dict[str, Any]:
        """The line that --json prints."""
        return {
            "model": self.model,
            "version": self.registered.version,
            "alias": self.alias,
            "promoted": self.registered.promoted,
            "already_champion": self.already,
            "previous": self.previous,
            "dry_run": self.dry_run,
            "reasons": list(self.reasons),
            "verdict": self.verdict.as_json(),
        }


def promote(
    asked: Asked,
    say: Say,
    show: Show = lambda _verdict: None,
    scored_by: ScoredBy = scoring,
    clock: Callable[[], float] = time.time,
) -> Outcome:
    """Promotes the best adapter of a sweep, if it is better than what it would replace.

    Args:
        asked: the sweep, and what to do.
        say: told of each step in a line.
        show: given the verdict, for a table.
        scored_by: makes what evaluates: a process of its own, or a host of a cluster.
        clock: seconds since the epoch.

    Raises:
        SweepError, ClusterError, TrainableError: something is not as it must be; the alias was not moved.
    """
    policy_of(asked, Policy())
    place = stores.find(asked.sweep, asked.tracking_uri)
    with answering(place.uri):
        sweep = Lookup(place.uri).sweep(place)
        policy = policy_of(asked, sweep.config.promotion)
        if policy.model is None:
            raise SweepError("--model: name the registered model, or set promotion.model in the sweep file")
        can_score(sweep.config.trainable)
        say(f"sweep: {sweep.sweep_id} ({len(sweep.trials)} trials, {sweep.state.lower()}) in {place.shown}")
        contest = Contest(asked, policy, place.uri, sweep, say)
        contest.find_champion()
        contest.choose()
        contest.fetch()
        with scored_by(contest.base(), asked.address) as scored:
            contest.check_content(scored)
            contest.evaluate_again(scored)
            verdict = contest.decide(scored)
            show(verdict)
            registered = _registered(contest, verdict, scored, clock)
    return Outcome(
        model=policy.model,
        alias=policy.alias,
        verdict=verdict,
        registered=registered,
        already=contest.is_champion(),
        previous=contest.champion.number if contest.champion is not None else None,
        dry_run=asked.dry_run,
    )


def policy_of(asked: Asked, of_file: Policy) -> Policy:
    """The policy of the sweep file with what was asked for instead. Raises `ConfigError` naming the option."""
    given = {name: value for name, value in asked.policy.items() if value is not None}
    try:
        return Policy.model_validate({**of_file.model_dump(), **given})
    except ValidationError as error:
        found = (line.partition(":") for line in messages.of_validation(error, given))
        raise ConfigError([f"--{name.replace('_', '-')}:{rest}" for name, _, rest in found]) from None


def _registered(contest: Contest, verdict: Verdict, scored: Scoring, clock: Callable[[], float]) -> Registered:
    champion, model = contest.champion, contest.model
    if champion is not None and contest.is_champion():
        contest.say(f"{model} version {champion.number} is the {contest.policy.alias} already")
        return Registered(champion.number, promoted=True)
    if not verdict.passed:
        contest.say("gate: no")
        return Registered()
    contest.say(f"gate: {verdict.winner} passes")
    return Registration(contest, verdict, scored).register(clock())
