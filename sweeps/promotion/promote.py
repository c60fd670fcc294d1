"""Promotes from start to end: choose candidates, verify them, evaluate them again, ask the gate, register the winner.

Each step is a function that takes and returns frozen records. Nothing is written until a candidate has passed the gate.
After that every write is safe to repeat, and the alias moves last. When two promotions run at once, only one wins: see
`sweeps.promotion.registration`, and `sweeps.tracking.registry` for the race that remains on a server.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from cluster.scoring import Scoring, scoring
from sweeps.promotion import candidates, cards, evidence, registration, versions, words
from sweeps.promotion.evidence import Contender
from sweeps.promotion.gate import Verdict
from sweeps.promotion.registration import Registered
from sweeps.promotion.request import Context, PromotionRequest, settle
from sweeps.statistics.intervals import LEAST_ROWS
from sweeps.tracking.client import Say
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry
from trainables.objective import digits
from trainables.scoring.requests import Tell, tell_nobody
from trainables.specs import TrialSpec

Show = Callable[[Verdict], None]
ScoredBy = Callable[[TrialSpec, str | None, Tell, int], AbstractContextManager[Scoring]]


@dataclass(frozen=True)
class PromotionResult:
    """Result of a promotion."""

    model: str
    alias: str
    verdict: Verdict
    registered: Registered
    already: bool
    """Whether the alias pointed to the winner before."""
    previous: str | None
    """Version that the alias pointed to before."""
    dry_run: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """Returns why the alias does not point to the winner; empty if the alias does, or if a dry run passes."""
        passed = self.verdict.passed or self.already
        return self.registered.reasons if passed else words.reasons(self.verdict)

    @property
    def would_promote(self) -> bool:
        """Tells whether this was a dry run that would have moved the alias to a new winner."""
        return self.dry_run and not self.reasons and not self.already

    def __repr__(self) -> str:
        best = self.verdict.best
        gains = (f"gain {digits(g.difference, '+')} on the {g.key}, {words.evidence(best, g)}" for g in best.gains)
        told = f"verdict on {best.name}: {words.of(self.verdict)}; {best.objective.metric} {'; '.join(gains)}"
        return f"<PromotionResult {self.model}: {self._ending}; {told}>"

    @property
    def _ending(self) -> str:
        if self.would_promote:
            return "a dry run that would promote"
        if self.already:
            return f"version {self.registered.version} is the {self.alias} already"
        if self.registered.promoted:
            return f"promoted version {self.registered.version}"
        return "; ".join(("not promoted", *self.registered.reasons))

    @property
    def exit_code(self) -> int:
        """Returns 0 if the winner was promoted, is champion already, or passes in a dry run; else 1."""
        return 0 if self.registered.promoted or (self.dry_run and not self.reasons) else 1

    def as_json(self) -> dict[str, Any]:
        """Returns the object for the JSON line."""
        return {
            "model": self.model,
            "version": self.registered.version,
            "alias": self.alias,
            "promoted": self.registered.promoted,
            "already_champion": self.already,
            "previous": self.previous,
            "dry_run": self.dry_run,
            "reasons": list(self.reasons),
            "unquantised_loss": self.registered.unquantised_loss,
            "verdict": words.as_json(self.verdict),
        }


def promote(
    request: PromotionRequest,
    say: Say,
    show: Show = lambda _verdict: None,
    scored_by: ScoredBy = scoring,
    clock: Callable[[], float] = time.time,
    tell: Tell = tell_nobody,
) -> PromotionResult:
    """Promotes the best adapter of a sweep, if it is better than what it would replace.

    Args:
        say: receives a line for each step.
        show: receives the verdict, for a table.
        scored_by: starts the process that evaluates, on this machine or on a host of a cluster.
        tell: receives the progress of each evaluation.

    Raises:
        SweepError, ClusterError, TrainableError: a check or an evaluation failed. The alias was not moved.
    """
    with answering(request.place.uri):
        context = _context(request, say)
        champion = evidence.find_champion(context)
        trials = candidates.ranked(context.sweep, context.objective, request.trial, request.force)
        fetched = candidates.fetch(context, trials)
        told = [each for each in fetched if math.isfinite(each.trial.best(context.objective.metric))]
        if told:
            evidence.refuse_unpaired("--metric", context.objective.metric, told[0].reported)
        base, gpus = candidates.base_of(context.sweep, fetched), context.sweep.config.cluster.spread
        with scored_by(base, request.address, tell, gpus) as scored:
            say("checking that base and rows are still those of the sweep")
            checked = evidence.check(context, champion, scored)
            evidence.confirm(context, fetched, scored)
            found = evidence.collect(context, fetched, checked, scored)
            contender = evidence.with_answers(context, evidence.decide(champion, found, context.policy.slices), scored)
            if contender.verdict.passed and not contender.is_champion:
                contender = evidence.guard(context, contender, checked, scored)
            contender = _looked_before(context, contender)
            for warning in contender.verdict.warnings:
                say(f"warning: {warning}")
            show(contender.verdict)
            for line in cards.other_metrics(contender.verdict, context.sweep.config.evaluation):
                say(line)
            if contender.verdict.best.rows >= LEAST_ROWS:
                say(words.unseen(contender.verdict))
            registered = _ended_without(context, contender)
            if registered is None:
                registered = registration.register(context, contender, scored, clock)
    return PromotionResult(
        model=context.model,
        alias=context.alias,
        verdict=contender.verdict,
        registered=registered,
        already=contender.is_champion,
        previous=champion.number if champion is not None else None,
        dry_run=request.dry_run,
    )


def _context(request: PromotionRequest, say: Say) -> Context:
    """Reads the sweep from MLflow. Raises `SweepError` or `HostError` if nothing can be promoted from it."""
    uri = request.place.uri
    lookup = Lookup(uri)
    sweep = lookup.sweep(request.place)
    settled = settle(request, sweep.config)
    trials = sum(trial.repeats is None for trial in sweep.trials)
    size = f"{trials} trial{'' if trials == 1 else 's'}"
    say(f"sweep: {sweep.sweep_id} ({size}, {sweep.state.lower()}) in {request.place.uri}")
    return Context(request, *settled, sweep, lookup, Registry(uri), say)


def _looked_before(context: Context, contender: Contender) -> Contender:
    """Warns if an earlier promotion used the same rows: each use is one more chance to win by luck."""
    fingerprint, own = contender.evidence.answer.fingerprint, contender.candidate.identity
    earlier = [each.number for each in context.registry.decided_on(context.model, fingerprint, own)]
    if not earlier:
        return contender
    which = f"version{'' if len(earlier) == 1 else 's'} {', '.join(earlier)}"
    warning = (
        f"{which} {'was' if len(earlier) == 1 else 'were'} decided on these rows: each further use of the same rows "
        "is one more chance to win by luck, the intervals assume a single use, and nobody counts refused candidates; "
        "new rows (--eval-data) are better evidence"
    )
    verdict = contender.verdict
    return replace(contender, verdict=replace(verdict, warnings=(*verdict.warnings, warning)))


def _ended_without(context: Context, contender: Contender) -> Registered | None:
    """Returns the result of a promotion with nothing to register; None if the winner is to be registered."""
    champion, alias, verdict = contender.champion, context.alias, contender.verdict
    for reason in (
        words.reasons(verdict) if contender.is_champion else ()
    ):  # it stays the champion, and nobody else says them
        context.say(reason)
    context.say(f"verdict: {f'{verdict.winner} is ' if verdict.passed else ''}{words.of(verdict)}")
    if champion is not None and contender.is_champion:
        versions.package(context.lookup, context.model, champion)
        context.say(f"{context.model} version {champion.number} is the {alias} already")
        return Registered(champion.number, promoted=True)
    if not verdict.passed:
        return Registered()
    model = context.registry.model(context.model)
    known = None if model is None else context.registry.of_identity(context.model, contender.candidate.identity)
    back = None if model is None or known is None else versions.taken_back(model, alias, known.number)
    if back is None:
        return None
    # Whoever rolled the winner back may know what the rows do not show.
    objection = f"version {back.previous} was rolled back at {versions.in_words(back.time)} UTC"
    if context.request.force:
        context.force(objection)
        return None
    option = "" if alias == "champion" else f" --alias {alias}"
    again = f"qsweep rollback --model {context.model} --to {back.previous}{option}"
    return Registered(back.previous, reasons=(f"{objection}: {again} makes it the {alias} again, and so does --force",))
