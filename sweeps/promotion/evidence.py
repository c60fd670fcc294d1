"""Collects the evidence of a promotion: checks base, rows and champion, evaluates all of them, and asks the gate.

The candidates are evaluated twice: once to confirm what their trials reported, once on the rows that decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, HostsDied
from cluster.scoring import Scoring
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, NotStored, SweepError
from sweeps.promotion import expected_time, gate, versions
from sweeps.promotion.candidates import Candidate, ranked_together
from sweeps.promotion.gate import CHAMPION, GateRule, Guarded, Sliced, Verdict
from sweeps.promotion.request import Context, direction
from sweeps.promotion.words import warnings
from sweeps.tracking.registry import IDENTITY, Version
from trainables import catalogue
from trainables.contract import Evaluation
from trainables.errors import TrainableError
from trainables.objective import EVAL_BITS, EVAL_LOSS, PER_TOKEN, Objective
from trainables.scoring import requests, tokenizer_files
from trainables.scoring.requests import BASE, MOST_SAMPLES, BaseFacts, ScoringRequest, ScoringResult
from trainables.specs import ModelSpec, TrialSpec


@dataclass(frozen=True)
class Content:
    """Result of `check_base_and_rows`: the base, the champion's adapter and the rows."""

    base_identity: str
    """Identifies base and quantisation. Only adapters on one model can be compared."""
    champion_adapter: Mapping[str, bytes] | None
    """Files of the PEFT folder; None if there is no champion, or if --force promotes without a comparison."""
    deciding: tuple[str, str]
    """Result of `deciding_rows`."""
    eval_data: bytes | None
    """Content of the --eval-data file, read before its first rows were checked: the file may change later."""
    guards: Mapping[str, bytes]
    """File of a guard in `promotion.guards` -> its content, read in the same way."""
    champion: Version | None = None
    champion_base: TrialSpec | None = None
    """The base of the champion, where it is the sweep's model in another quantisation."""


class ChampionApart(Scoring):
    """Scores the champion on its own base, in a process apart, and everything else on the sweep's base."""

    def __init__(self, scored: Scoring, base: TrialSpec) -> None:
        """`base`: the champion's."""
        super().__init__(scored._call)
        self._base = base

    def score(self, request: ScoringRequest) -> ScoringResult:
        """Returns the scores of all, on the same rows; see `Scoring.score`."""
        others = {name: files for name, files in request.adapters.items() if name != CHAMPION}
        found = super().score(request.model_copy(update={"adapters": others}))
        if len(others) == len(request.adapters):
            return found
        alone = {"adapters": {CHAMPION: request.adapters[CHAMPION]}, "with_base": False}
        own = self.score_apart(self._base, request.model_copy(update=alone))
        if (read := own.scores.get(CHAMPION)) is not None:
            ours = next(iter(found.scores.values()))
            if read.row_bytes != ours.row_bytes or len(read.row_losses) != len(ours.row_losses):
                raise SweepError(
                    f"the {CHAMPION} and the candidates do not read the same rows whole: data.max_length cuts them at "
                    "other places; give rows that both read whole with --eval-data, or leave it uncompared with --force"
                )
        merged = {
            "scores": {**found.scores, **own.scores},
            "logprobs": {**found.logprobs, **own.logprobs},
            "not_finite": (*found.not_finite, *own.not_finite),
        }
        return found.model_copy(update=merged)


@dataclass(frozen=True)
class Evidence:
    """Evaluations of base, champion and candidates on the deciding rows."""

    candidates: Sequence[Candidate]
    """Candidates with a finite loss."""
    request: ScoringRequest
    answer: ScoringResult
    rows: str
    """Source of the rows, in words."""
    base_identity: str
    rule: GateRule
    champion: Version | None = None
    sliced: Sliced | None = None
    guarded: tuple[Guarded, ...] = ()


@dataclass(frozen=True)
class Contender:
    """The best candidate, and the gate's verdict on it."""

    candidate: Candidate
    verdict: Verdict
    evidence: Evidence

    @property
    def is_champion(self) -> bool:
        """Tells whether the alias already points to the candidate."""
        champion = self.evidence.champion
        return champion is not None and champion.tags[IDENTITY] == self.candidate.identity


# Checks of base, rows and champion


def find_champion(context: Context) -> Version | None:
    """Returns the alias's version; None if there is none. Raises `SweepError` if model or version are not qsweep's."""
    context.registry.model(context.model)
    champion = context.registry.at(context.model, context.alias)
    if champion is not None and IDENTITY not in champion.tags:
        raise SweepError(
            f"{context.model}: version {champion.number}, its {context.alias}, was not made by qsweep: there is no "
            "adapter to compare with; move the alias or choose another"
        )
    return champion


def check_base_and_rows(context: Context, champion: Version | None, scored: Scoring) -> Content:
    """Checks that base and rows are still those that the sweep began with, and that the champion is on this base.

    Raises:
        ConfigError: the rows of --eval-data or of a guard, or the column of the slices, are wrong.
        SweepError: base or rows are missing. Without --force also: they differ, or the champion cannot be compared
            with.
    """
    file, deciding = context.request.eval_data, deciding_rows(context)
    rows = None if file is None else _check_rows(context, file, "--eval-data")
    guards = {
        guard.data: _check_rows(context, Path(guard.data), f"promotion.guards.{place}.data")
        for place, guard in enumerate(context.policy.guards)
        if guard.data is not None
    }
    if context.policy.slices is not None:
        problems = requests.check_slices(context.sweep.config.base.data_spec, deciding[0], context.policy.slices.by)
        if problems:
            raise ConfigError(problems)
    try:
        fingerprints = scored.fingerprint()
    except HostsDied:
        raise
    except (ClusterError, TrainableError) as error:
        raise SweepError(
            f"{error}: promotion evaluates on the sweep's own base and rows: put it there, run this where the "
            "sweep ran, or give --address of a cluster that has it"
        ) from None
    for name, before in context.sweep.fingerprints.items():
        if fingerprints.get(name, before) != before:
            context.force(f"{name}: its content is not what the sweep began with")
    identity = _base_identity(context.sweep.config, fingerprints)
    found = None if champion is None else _champion(context, champion, identity, scored)
    if isinstance(found, str):
        context.force(found)
        found = None
    adapter, base = found or (None, None)
    return Content(identity, adapter, deciding, rows, guards, champion, base)


def _check_rows(context: Context, file: Path, option: str) -> bytes:
    """Returns a file's content. Passes warnings about its first rows on."""
    data = context.sweep.config.base.data_spec
    problems = requests.check_rows(data, str(file), option)
    if problems:
        raise ConfigError(problems)
    content = file.read_bytes()
    look = requests.look_at_rows(data, str(file), option)
    if look.problems:
        raise ConfigError(look.problems)
    for warning in look.warnings:
        context.say(f"warning: {warning}")
    return content


def _base_identity(config: SweepConfig, fingerprints: Mapping[str, str]) -> str:
    quantization = config.quantization
    double = " double" if quantization.is_double else ""
    return f"{fingerprints['model']} {quantization.scheme}{double}"


def _without_revision(identity: str) -> str:
    """Removes the revision of a hub model from a base's identity: `moved_base` compares revisions."""
    return re.sub(r"^(hub:\S+)@\S+", r"\1", identity)


def _model_of(identity: str) -> str:
    """Removes the revision and the quantisation from a base's identity."""
    return _without_revision(identity).removesuffix(" double").rpartition(" ")[0]


def moved_base(theirs: Mapping[str, Any], ours: BaseFacts) -> str | None:
    """Says how a champion's base differs from this sweep's base of the same source; None if it does not.

    A branch moves. Two commits with the same weights are one base. A file in a package may have other weights in
    another version of the package.

    Args:
        theirs: base.json in the champion's package.
        ours: the base that promotion evaluates on.
    """
    its, is_hub = theirs["revision"], theirs["kind"] == "hub"
    if not is_hub and not theirs["source"].startswith("package:"):
        return None  # `base_identity` holds the content of other local bases, whatever their files are called
    if (ours.files and theirs["files"] == ours.files) or (is_hub and its == ours.revision):
        return None
    if is_hub:
        return f"{ours.source} at {its}, this sweep at {ours.revision}: one with model.revision={its} compares with it"
    return f"{ours.source} of another version of the package, with other weights"


def _champion(
    context: Context, champion: Version, base_identity: str, scored: Scoring
) -> tuple[dict[str, bytes], TrialSpec | None] | str:
    """Returns the files of the champion's adapter and `Content.champion_base`; or why it cannot be compared with."""
    who = f"{context.model}: its {context.alias}, version {champion.number},"
    identity = champion.tags.get("base.identity", "unknown")
    is_alike = _without_revision(identity) == _without_revision(base_identity)
    is_same_model = _model_of(identity) == _model_of(base_identity)
    metrics = {context.objective.metric, *(each.metric for each in context.policy.guards)}
    if not is_same_model and not metrics.isdisjoint(PER_TOKEN):
        return (
            f"{who} is on another base ({identity}) than this sweep ({base_identity}), and a loss per token does "
            f"not compare models: give --metric {EVAL_BITS} or a score of answers, and such a metric to each guard"
        )
    try:
        files = versions.package(context.lookup, context.model, champion)
    except NotStored as error:
        return f"{who} cannot be compared with: {error}"
    # An adapter looks worse than it is on rows in a form that it was not trained on.
    form, data = versions.row_form_in(files), context.sweep.config.base.data_spec
    if form != data.model_dump(include=set(form)):
        return f"{who} reads rows in another form (prompt, completion, messages, text or system) than this sweep"
    if not is_same_model:
        return _on_other_model(context, identity, files, who)
    ours = scored.base_facts()
    moved = moved_base(versions.base_in(files), ours)
    if moved is not None:
        return f"{who} is on another base ({moved})"
    other = tokenizer_files.difference(versions.tokenizer_in(files), ours.tokenizer, of_chats=data.text is None)
    if other is not None:
        return f"{who} was trained with another {other} than this sweep"
    spec, its = context.sweep.config.base, versions.base_in(files)["quantization"]
    if is_alike and its["compute_dtype"] == ours.quantization["compute_dtype"]:
        return versions.adapter_in(files), None
    own = {name: its[name] for name in ("scheme", "double_quant", "compute_dtype")}
    base = spec.model_copy(update={"quantization": spec.quantization.model_copy(update=own)})
    context.say(
        f"the {context.alias} was trained in {own['scheme']}, {own['compute_dtype']}: it is evaluated on its own base, "
        "on the same rows"
    )
    return versions.adapter_in(files), base


def _on_other_model(
    context: Context, identity: str, files: Mapping[str, bytes], who: str
) -> tuple[dict[str, bytes], TrialSpec] | str:
    """Returns what `_champion` does for a champion on another model, which is compared by what counts no tokens."""
    its, spec, trainable = versions.base_in(files), context.sweep.config.base, context.sweep.config.trainable
    if its["trust_remote_code"]:
        return f"{who} is on a model that runs its own Python code ({its['source']}), which is not run here"
    model = ModelSpec(source=its["source"], revision=its["revision"] if its["kind"] == "hub" else None)
    own = {name: its["quantization"][name] for name in ("scheme", "double_quant", "compute_dtype")}
    quantization = spec.quantization.model_copy(update=own)
    base = spec.model_copy(update={"model": model, "quantization": quantization})
    try:
        now = catalogue.find(trainable).fingerprint(base)["model"]
    except TrainableError as error:
        return f"{who} is on a base that is not here: {error}"
    if _without_revision(now) != _model_of(identity):
        return f"{who} is on a base whose content has changed ({its['source']})"
    context.say(f"the {context.alias} was trained on {its['source']}: it is evaluated there, on the same rows")
    return versions.adapter_in(files), base


# Evaluations


def confirm(context: Context, candidates: Sequence[Candidate], scored: Scoring) -> None:
    """Evaluates the candidates on the sweep's evaluation rows again, and compares with the losses that they reported.

    Raises:
        SweepError: a loss differs from the reported one; or tokens differ, and the request does not force.
    """
    about = expected_time.in_words(
        context, lambda: max(len(each.reported.row_losses) for each in candidates), len(candidates)
    )
    context.say(f"evaluating candidates on the rows that the sweep was scored on{about}")
    adapters = {candidate.label: candidate.adapter for candidate in candidates}
    answer = scored.score(ScoringRequest(rows="eval", adapters=adapters, with_answers=False))
    tokens = context.sweep.data_fingerprint
    if tokens is not None and answer.fingerprint[: len(tokens)] != tokens:
        context.force(
            "data: its tokens are not those that the sweep trained on: rows, tokenizer or versions of the libraries "
            "or of qsweep have changed"
        )
    for candidate in candidates:
        context.say(_confirmed(candidate, answer))


def _confirmed(candidate: Candidate, answer: ScoringResult) -> str:
    """Formats how far the second evaluation is from the first one. Raises `SweepError` if it is too far."""
    claimed = candidate.trial.best(EVAL_LOSS)
    if candidate.label in answer.not_finite:
        raise SweepError(
            f"{candidate.label}: its loss is not finite, and it reported {claimed:.5f} "
            f"({answer.hardware}): adapter, base, rows or libraries are not those of the sweep"
        )
    found = answer.scores[candidate.label]
    told = agreement(candidate.reported, found)
    if not told.holds or abs(claimed - found.loss) > told.tolerance:
        raise SweepError(
            f"{candidate.label}: evaluates to {found.loss:.5f} and reported {claimed:.5f}; its rows "
            f"differ by {told.difference:.2g} per token, more than {told.tolerance:g} "
            f"({told.hardware}): adapter, base, rows or libraries are not those of the sweep"
        )
    return (
        f"  {candidate.label}: {found.loss:.4f}, as reported (rows differ by {told.difference:.1g}, tolerance "
        f"{told.tolerance:g} for {told.hardware})"
    )


@dataclass(frozen=True)
class Agreement:
    """Difference between a second evaluation and the one that a trial reported."""

    difference: float
    """Sum of the rows' absolute loss differences per token, in nats. Absolute: rows cannot cancel each other."""
    tolerance: float
    hardware: str
    """Hardware of the second evaluation, and of the first one if it differs; or "other rows or tokens"."""

    @property
    def holds(self) -> bool:
        """Tells whether adapter, base and rows are the same."""
        return self.difference <= self.tolerance


def agreement(reported: Evaluation, now: Evaluation) -> Agreement:
    """Compares an adapter's losses with those that its trial reported.

    The tolerance depends on the type of the activations. In float32, packed training and plain PEFT agree within 1e-5
    (tests/trainables/packing/test_adapter_pack.py); the tolerance is ten times that, for other versions of the
    libraries. 16-bit types keep 8 to 11 bits, and rounding depends on the other rows of a pass: the tolerance is 0.02.
    Another device computes sums in another order: the tolerance is ten times as large in float32, and twice as large in
    16 bits. If the hardware of the trial's evaluation is unknown, the widest tolerance holds.
    """
    now = now.on(reported.places) if reported.places and max(reported.places) < len(now.row_tokens) else now
    if reported.row_tokens != now.row_tokens:
        return Agreement(float("inf"), 0.0, "other rows or tokens")
    gaps = (abs(ours - theirs) for ours, theirs in zip(now.row_losses, reported.row_losses, strict=True))
    difference = sum(gaps) / sum(now.row_tokens)
    before, after = reported.hardware, now.hardware
    words = after if before == after else f"{before or 'unknown'}, now {after}"
    return Agreement(difference, tolerance(before, after), words)


def tolerance(reported_on: str, now_on: str) -> float:
    """Returns the largest difference per token, in nats, at which two evaluations agree; see `agreement`."""
    if not reported_on:
        return 0.04
    (device, dtype), (device_now, dtype_now) = reported_on.split(), now_on.split()
    if dtype == dtype_now == "float32":
        return 1e-4 if device == device_now else 1e-3
    return 0.02 if (device, dtype) == (device_now, dtype_now) else 0.04


def collect(context: Context, candidates: Sequence[Candidate], content: Content, scored: Scoring) -> Evidence:
    """Evaluates base, champion and candidates on the deciding rows. Leaves out candidates whose loss is not finite.

    Raises:
        SweepError: base, champion or all candidates have no finite loss, or the metric has no value per row.
    """
    rows, words = content.deciding
    adapters = {candidate.label: candidate.adapter for candidate in candidates}
    if content.champion_adapter is not None:
        adapters[CHAMPION] = content.champion_adapter
    announce(context, adapters, content)
    metric, slices, ranked = context.objective.metric, context.policy.slices, _ranked(context, rows)
    # A refit on all rows was evaluated there alone, once.
    are_own = ranked > 0 or (rows == "test" and context.sweep.config.base.data_spec.all_rows)
    request = ScoringRequest(
        rows=rows, content=content.eval_data, adapters=adapters, with_base=True, samples=MOST_SAMPLES,
        slice_by=None if slices is None else slices.by, leave_out=("train",) if are_own else ("train", "eval"),
        with_answers=context.sweep.config.evaluation.scores_by(metric),
    )  # fmt: skip
    answer = scored.score(request)
    for name, shown in ((BASE, BASE), (CHAMPION, context.alias)):
        if name in answer.not_finite:
            raise SweepError(
                f"the loss of the {shown} is not finite on {words}, so that nothing can be compared with it: name "
                "other rows with --eval-data"
            )
    refuse_unpaired("--metric", metric, answer.scores[BASE])
    for label in answer.not_finite:
        context.say(f"warning: {label} is left out: its loss on {words} is not finite")
    left = tuple(candidate for candidate in candidates if candidate.label not in answer.not_finite)
    if not left:
        is_free = context.request.trial is None and not context.left_out
        others = "more candidates with --top" if is_free else "another trial with --trial"
        raise SweepError(
            f"{context.sweep.sweep_id}: no trial may be promoted: the loss of none is finite on {words}: name "
            f"other rows with --eval-data, or {others}"
        )
    rule = GateRule(
        objective=context.objective, min_gain=context.policy.min_gain, ranked=ranked, method=gate.METHOD,
        beside=scores_beside(context, answer.scores[BASE].row_values), scores_limit=context.policy.metric is None,
        candidates=tuple(candidate.label for candidate in left), left_out=context.left_out,
    )  # fmt: skip
    sliced = None if slices is None else Sliced(of=slices, values=answer.slices)
    return Evidence(left, request, answer, words, content.base_identity, rule, content.champion, sliced)


def with_answers(context: Context, contender: Contender, scored: Scoring) -> Contender:
    """Scores the answers of the winner, the base and the champion, where no score decides, and asks the gate again."""
    evidence, config = contender.evidence, context.sweep.config.evaluation
    if evidence.request.with_answers or not config.metrics:
        return contender
    names = [name for name in (contender.candidate.label, CHAMPION) if name in contender.verdict.scores]
    context.say(f"scoring the answers of {', '.join((BASE, *names))}")
    adapters = {name: evidence.request.adapters[name] for name in names}
    request = evidence.request.model_copy(update={"adapters": adapters, "with_answers": True})
    before, found = evidence.answer, scored.score(request)
    merged = {
        "scores": {**before.scores, **found.scores},
        "logprobs": {**before.logprobs, **found.logprobs},
        "not_finite": before.not_finite,
    }
    beside = scores_beside(context, found.scores[BASE].row_values)
    rule = evidence.rule.model_copy(update={"beside": beside})
    told = replace(evidence, request=request, answer=found.model_copy(update=merged), rule=rule)
    return decide(told)


def _ranked(context: Context, rows: str) -> int:
    """Returns `GateRule.ranked` for the rows of a request."""
    data, file = context.sweep.config.base.data_spec, context.request.eval_data
    is_seen = rows == "held_out" or (file is not None and requests.seen_by_search(data, str(file)))
    return ranked_together(context.sweep, context.request.trial) if is_seen else 0


def scores_beside(context: Context, told: Iterable[str]) -> tuple[Objective, ...]:
    """Returns `GateRule.beside`: the main scores among those `told` that neither decide nor have a guard.

    The main score of the grader that decides by a further score is none of them. Raises as `direction`.
    """
    config, own, scored = context.sweep.config, context.objective.metric, context.sweep.config.evaluation
    graders = [name for name in scored.names if own == name or own.startswith(f"{name}_")]
    # `json_valid` is of the grader of this name, and not of a function `json`. `answers_ended` comes by itself.
    left_out = {
        own,
        max(graders, key=len, default=own),
        *scored.names[-1:],
        *(each.metric for each in context.policy.guards),
    }
    names = dict.fromkeys(scored.main_among(told) if scored.metrics else ())
    return tuple(Objective(metric=name, mode=direction(config, name)) for name in names if name not in left_out)


def _left_out(answer: ScoringResult, words: str) -> tuple[str, ...]:
    """Returns a warning about the rows that were left out, if there are any."""
    where = {"train": "in data.train", "eval": "among the rows that ranked the trials"}
    rows, parts = len(answer.row_digests), answer.left_out
    why = ", ".join(f"{count} {where[part]}" for part, count in parts.items())
    return (f"{words}: {rows} of {rows + sum(parts.values())} rows decide; left out: {why}",) if parts else ()


def announce(context: Context, adapters: Mapping[str, object], content: Content) -> None:
    """Says what is evaluated on which rows, the estimated time, and which scores do not decide."""
    (rows, words), config, metric = content.deciding, context.sweep.config, context.objective.metric
    graded = config.evaluation.names[:-1]  # answers_ended, the last one, comes with any answers
    # All, or the base, the winner and the champion.
    answered = len(adapters) + 1 if config.evaluation.scores_by(metric) else 2 + (CHAMPION in adapters)
    is_quantised = config.base.quantization.traits.is_quantised  # then the winner once more, on the base without it
    about = expected_time.in_words(
        context,
        lambda: requests.count_rows(config.base.data_spec, rows),
        len(adapters) + 1 + is_quantised,
        answered if graded else 0,
        loads=1 + is_quantised,  # the fresh process that serves loads one too
    )
    context.say(f"evaluating base{', champion' if CHAMPION in adapters else ''} and candidates on {words}{about}")
    if beside := [name for name in graded if metric != name and not metric.startswith(f"{name}_")]:
        are = "is" if len(beside) == 1 else "are"
        context.say(f"  {metric} decides; {' and '.join(beside)} {are} scored beside it")


def deciding_rows(context: Context) -> tuple[str, str]:
    """Returns the deciding rows, as `ScoringRequest.rows` and in words for the version's tags and its card.

    Warns if the search has seen these rows.
    """
    data, file = context.sweep.config.base.data_spec, context.request.eval_data
    if file is not None:
        if requests.seen_by_search(data, str(file)):
            context.say("warning: --eval-data holds the rows of data.eval: rows decide that the search has seen")
        return str(file.absolute()), file.name
    if data.test is not None:
        return "test", "data.test"
    if data.test_examples is not None and context.sweep.test_rows:
        return "test", "the test rows drawn from data.train"
    context.say("warning: there is no data.test and no --eval-data: rows decide that the search has seen")
    return "held_out", "the rows held out of data.train" if data.eval is None else "data.eval, all of it"


def refuse_unpaired(field: str, metric: str, evaluation: Evaluation) -> None:
    """Raises `SweepError` if an evaluation has no value of the metric per row."""
    if evaluation.rows_of(metric) is None:
        known = [name for name in (EVAL_LOSS, *evaluation.row_values) if evaluation.rows_of(name) is not None]
        raise SweepError(
            f"{field}: {metric} has no value per row, so that chance cannot be told from a gain: name one of "
            f"{', '.join(known)}"
        )


def decide(evidence: Evidence) -> Contender:
    """Asks the gate about the best candidate. Pure."""
    labels, scores = {each.label: each for each in evidence.candidates}, dict(evidence.answer.scores)

    def asked() -> Contender:
        verdict = gate.decide(scores, evidence.rule, evidence.sliced, evidence.guarded)
        verdict = replace(verdict, warnings=(*_left_out(evidence.answer, evidence.rows), *warnings(verdict)))
        return Contender(labels[verdict.winner], verdict, evidence)

    contender = asked()
    if contender.is_champion and CHAMPION in scores:
        del scores[CHAMPION]  # nothing is gained by a comparison with itself
        return asked()
    return contender


def guard(context: Context, contender: Contender, content: Content, scored: Scoring) -> Contender:
    """Evaluates the winner, the base and the champion on the rows of each guard, and asks the gate again.

    Raises:
        SweepError: a guard's metric has no value per row, or a loss is not finite on its rows.
    """
    evidence, label = contender.evidence, contender.candidate.label
    adapters = {name: files for name, files in evidence.request.adapters.items() if name in (label, CHAMPION)}
    answers: dict[str | None, ScoringResult] = {None: evidence.answer}
    found = []
    for place, each in enumerate(context.policy.guards):
        field, name = f"promotion.guards.{place}", "the rows that decide" if each.data is None else Path(each.data).name
        if each.data is not None and each.data not in answers:
            context.say(f"evaluating {', '.join([BASE, *sorted(adapters)])} on the guard {name}")
            rows, file = str(Path(each.data).absolute()), content.guards[each.data]
            by_answers = context.sweep.config.evaluation.scores_by
            request = ScoringRequest(
                rows=rows, content=file, adapters=adapters, with_base=True, leave_out=("train", "eval"),
                with_answers=any(by_answers(of.metric) for of in context.policy.guards if of.data == each.data),
            )  # fmt: skip
            answers[each.data] = _scored(scored, request, field)
            for warning in _left_out(answers[each.data], f"guard {name}"):
                context.say(f"warning: {warning}")
        scores = answers[each.data].scores
        refuse_unpaired(f"{field}.metric", each.metric, scores[BASE])
        objective = Objective(metric=each.metric, mode=direction(context.sweep.config, each.metric))
        own = {name: scores[name] for name in (BASE, *adapters)}
        found.append(Guarded(name=f"guard {name}", objective=objective, worse_by=each.worse_by, scores=own))
    return decide(replace(evidence, guarded=tuple(found)))


def _scored(scored: Scoring, request: ScoringRequest, field: str) -> ScoringResult:
    """Returns the evaluations on a guard's rows. Errors name the guard's field."""
    try:
        answer = scored.score(request)
    except ClusterError as error:
        raise type(error)(str(error).replace("--eval-data", f"{field}.data")) from None
    if answer.not_finite:
        who = " and ".join(answer.not_finite)
        raise SweepError(f"{field}.data: the loss of {who} is not finite on its rows: give other rows")
    return answer
