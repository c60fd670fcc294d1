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
from dataclasses import replace

from cluster.scoring import Scoring, scoring
from sweeps.promotion import candidates, cards, evidence, registration, words
from sweeps.promotion.evidence import Contender
from sweeps.promotion.gate import Verdict
from sweeps.promotion.registration import PromotionResult
from sweeps.promotion.request import Context, PromotionRequest, settle
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import IDENTITY, ROWS, Registry
from trainables.objective import LEAST_ROWS
from trainables.scoring.requests import Tell, tell_nobody
from trainables.specs import TrialSpec

Show = Callable[[Verdict], None]
ScoredBy = Callable[[TrialSpec, str | None, Tell, int], AbstractContextManager[Scoring]]


def promote(
    request: PromotionRequest,
    say: Callable[[str], None],
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
        context, fetched = candidates.not_worse(*candidates.on_one_base(context, trials))
        told = [each for each in fetched if math.isfinite(each.trial.best(context.objective.metric))]
        if told:
            evidence.refuse_unpaired("--metric", context.objective.metric, told[0].reported)
        base, gpus = candidates.base_of(context.sweep, fetched), context.sweep.config.cluster.spread
        with scored_by(base, request.address, tell, gpus) as scored:
            say("checking that base and rows are still those of the sweep")
            checked = evidence.check_base_and_rows(context, champion, scored)
            if checked.champion_base is not None:
                scored = evidence.ChampionApart(scored, checked.champion_base)
            evidence.confirm(context, fetched, scored)
            found = evidence.collect(context, fetched, checked, scored)
            contender = evidence.with_answers(context, evidence.decide(found), scored)
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
            return registration.register(context, contender, scored, clock)


def _context(request: PromotionRequest, say: Callable[[str], None]) -> Context:
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
    found = context.registry.versions(context.model, ROWS, fingerprint)
    earlier = [each.number for each in found if each.tags.get(IDENTITY) != own]
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
