"""Evaluates the candidates: once to confirm what their trials reported, once on the rows that decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.scoring import Scoring
from sweeps.errors import SweepError
from sweeps.promotion import gate
from sweeps.promotion.candidates import Candidate
from sweeps.promotion.content import Content
from sweeps.promotion.context import Context
from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.tracking.registry import IDENTITY, Version
from trainables.errors import TrainableError
from trainables.scoring import requests
from trainables.scoring.requests import BASE, BaseFacts, ScoringRequest, ScoringResult

SAMPLES = 4
"""Rows that the packaged model must score as the evaluation did."""


@dataclass(frozen=True)
class Evidence:
    """Losses of base, champion and candidates on the rows that decide."""

    candidates: Sequence[Candidate]
    """Those with a finite loss: the others are left out."""
    request: ScoringRequest
    answer: ScoringResult
    rows: str
    """Where the rows come from, in words."""


@dataclass(frozen=True)
class Contender:
    """The candidate with the lowest loss, and the verdict of the gate on it."""

    verdict: Verdict
    candidate: Candidate
    is_champion: bool
    """Whether the alias points to the winner already."""


@dataclass(frozen=True)
class Winner:
    """The candidate that passed the gate, and what its version says of it."""

    candidate: Candidate
    champion: Version | None
    base_identity: str
    evidence: Evidence
    verdict: Verdict
    forced: tuple[str, ...]
    """The objections that --force overrode."""


def confirm(context: Context, candidates: Sequence[Candidate], scored: Scoring) -> None:
    """Evaluates the candidates on the rows that their trials were scored on, and compares with what those reported.

    Raises:
        SweepError: a loss does not come out again.
    """
    context.say("evaluating candidates on the rows that the sweep was scored on")
    adapters = {candidate.label: candidate.adapter for candidate in candidates}
    answer = scored.score(ScoringRequest(rows="eval", adapters=adapters))
    tokens = context.sweep.data_fingerprint
    if tokens is not None and answer.fingerprint[: len(tokens)] != tokens:
        context.force(
            "data: its tokens are not those that the sweep trained on: rows, tokenizer or versions of the libraries "
            "or of qsweep have changed"
        )
    for candidate in candidates:
        context.say(_confirmed(candidate, answer))


def _confirmed(candidate: Candidate, answer: ScoringResult) -> str:
    """The line that says how far the second evaluation is from the first. Raises `SweepError` when it is too far."""
    claimed = candidate.trial.best(gate.DECIDES.metric)
    if candidate.label in answer.not_finite:
        raise SweepError(
            f"{candidate.label}: its loss is not finite, and it reported {claimed:.5f} "
            f"({answer.hardware}): adapter, base, rows or libraries are not those of the sweep"
        )
    found = answer.scores[candidate.label]
    agreement = gate.agreement(candidate.reported, found)
    if not agreement.holds or abs(claimed - found.loss) > agreement.tolerance:
        raise SweepError(
            f"{candidate.label}: evaluates to {found.loss:.5f} and reported {claimed:.5f}; its rows "
            f"differ by {agreement.difference:.2g} per token, more than {agreement.tolerance:g} "
            f"({agreement.hardware}): adapter, base, rows or libraries are not those of the sweep"
        )
    return (
        f"  {candidate.label}: {found.loss:.4f}, as reported (rows differ by {agreement.difference:.1g}, tolerance "
        f"{agreement.tolerance:g} for {agreement.hardware})"
    )


def collect(context: Context, candidates: Sequence[Candidate], content: Content, scored: Scoring) -> Evidence:
    """Evaluates the base, the champion if there is one, and the candidates on the rows that decide.

    A candidate whose loss is not finite there is left out.

    Raises:
        SweepError: the loss of no candidate is finite, or that of the base or the champion is not.
    """
    rows, words = deciding_rows(context)
    adapters = {candidate.label: candidate.adapter for candidate in candidates}
    if content.champion_adapter is not None:
        adapters[CHAMPION] = content.champion_adapter
    champion = ", champion" if CHAMPION in adapters else ""
    context.say(f"evaluating base{champion} and candidates on {words}")
    request = ScoringRequest(rows=rows, content=content.eval_data, adapters=adapters, with_base=True, samples=SAMPLES)
    answer = scored.score(request)
    for name, shown in ((BASE, BASE), (CHAMPION, context.alias)):
        if name in answer.not_finite:
            raise SweepError(
                f"the loss of the {shown} is not finite on {words}, so that nothing can be compared with it: name "
                "other rows with --eval-data"
            )
    if answer.trained_on > content.rows_in_train:  # the look at the first rows has not said all
        context.say(
            f"warning: --eval-data: {answer.trained_on} of {len(answer.scores[BASE].row_losses)} rows were trained on "
            "(all of data.train was compared): their loss says nothing about new rows; take them out of the file"
        )
    for label in answer.not_finite:
        context.say(f"warning: {label} is left out: its loss on {words} is not finite")
    left = tuple(candidate for candidate in candidates if candidate.label not in answer.not_finite)
    if not left:
        others = "more candidates with --top" if context.request.trial is None else "another trial with --trial"
        raise SweepError(
            f"{context.sweep.sweep_id}: no trial may be promoted: the loss of none is finite on {words}: name "
            f"other rows with --eval-data, or {others}"
        )
    return Evidence(left, request, answer, words)


def unquantised(context: Context, winner: Winner, base: BaseFacts, scored: Scoring) -> float | None:
    """The winner's loss on the rows that decide, on its base without quantisation: many serve that one.

    It only informs. None where the base is not quantised, or the loss is not known; says why.
    """
    scheme, label, evidence = base.quantization["scheme"], winner.candidate.label, winner.evidence
    if scheme == "none":
        return None
    where = "on the base without quantisation"
    context.say(f"evaluating {label} {where}")
    trained, spec = evidence.answer.scores[label], context.sweep.config.base
    change = {"scheme": "none", "compute_dtype": base.quantization["compute_dtype"]}
    plain = {
        "quantization": spec.quantization.model_copy(update=change),
        "model": spec.base_model.model_copy(update={"revision": base.revision}),
    }
    asked = {"adapters": {label: winner.candidate.adapter}, "with_base": False, "samples": 0}
    try:
        answer = scored.score_apart(spec.model_copy(update=plain), evidence.request.model_copy(update=asked))
    except (ClusterError, TrainableError) as error:
        context.say(f"the loss of {label} {where} is not known: {error}")
        return None
    if label in answer.not_finite:
        context.say(f"warning: the loss of {label} {where} is not finite: serve it in {scheme} only")
        return None
    found = answer.scores[label]
    agreement = gate.agreement(trained, found)
    told = f"{label}: loss {trained.loss:.4f} on the base in {scheme}, {found.loss:.4f} {where}"
    gaps = f"rows differ by {agreement.difference:.2g} per token, more than {agreement.tolerance:g}"
    way_out = f"what was evaluated is {scheme}: serve it so"
    context.say(told if agreement.holds else f"warning: {told}; {gaps}: {way_out}")
    return found.loss


def deciding_rows(context: Context) -> tuple[str, str]:
    """The rows that decide, as `ScoringRequest.rows` names them and as the version's tags and its card do.

    Warns when the search has seen them.
    """
    data, file = context.sweep.config.base.data_spec, context.request.eval_data
    if file is not None:
        if requests.seen_by_search(data, str(file)):
            context.say("warning: --eval-data holds the rows of data.eval: rows decide that the search has seen")
        return str(file.absolute()), file.name
    if data.test is not None:
        return "test", "data.test"
    context.say("warning: there is no data.test and no --eval-data: rows decide that the search has seen")
    return "held_out", "the rows held out of data.train" if data.eval is None else "data.eval, all of it"


def decide(champion: Version | None, evidence: Evidence, min_gain: float) -> Contender:
    """The gate's verdict on the candidate with the lowest loss. Pure."""
    candidates, scores = evidence.candidates, dict(evidence.answer.scores)
    best = min(candidates, key=lambda each: gate.DECIDES.loss(gate.DECIDES.of(scores[each.label].metrics)))
    is_champion = champion is not None and champion.tags[IDENTITY] == best.identity
    if is_champion:
        # Nothing is gained by a comparison with itself.
        scores.pop(CHAMPION, None)
    labels = [candidate.label for candidate in candidates]
    verdict = gate.decide(scores, labels, min_gain)
    return Contender(verdict, best, is_champion)
