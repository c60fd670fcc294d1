"""Registers a winner: packages, uploads, makes the version, serves it once, and moves its aliases, the asked one last.

Every write can run twice and is found again by the winner's identity: the same command completes an interrupted
promotion. The alias moves only while it still points to the champion that the winner was compared with.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import PACKAGES
from cluster.errors import ClusterError
from cluster.scoring import Scoring
from sweeps.errors import Failed, SweepError
from sweeps.promotion import cards, decision_record, versions, words
from sweeps.promotion.cards import VersionFacts
from sweeps.promotion.evidence import Contender, agreement, tolerance
from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.promotion.request import Context
from sweeps.record import digests, fault_points
from sweeps.tracking import model_package
from sweeps.tracking.registry import COMPLETE, IDENTITY, ROWS, STATE, Entry
from trainables.contract import Evaluation
from trainables.errors import TrainableError
from trainables.objective import digits
from trainables.scoring.requests import BASE, BaseFacts

SERVED_ROWS = 4
"""Rows that the packaged model must score as the evaluation did."""
NEW_TOKENS = 16
FEW_TOKENS = 16
"""Number of tokens below which the tolerance grows; see `difference`."""
ONE_ROW = 4
"""Factor on the tolerance for a single row, if all rows together are within the tolerance."""
FORCED = "promotion.forced"
"""Tag of a version: the objections that --force overrode in any of its promotions."""


@dataclass(frozen=True)
class PromotionResult:
    """Result of a promotion."""

    model: str
    alias: str
    verdict: Verdict
    version: str | None = None
    """None if nothing was registered."""
    promoted: bool = False
    """Whether the alias points to the version."""
    already_champion: bool = False
    """Whether the alias pointed to the winner before."""
    previous: str | None = None
    """Version that the alias pointed to before."""
    dry_run: bool = False
    reasons: tuple[str, ...] = ()
    """Why the alias does not point to the winner; empty if the alias does, or if a dry run passes."""
    unquantised_loss: float | None = None
    """See `unquantised`."""

    @property
    def would_promote(self) -> bool:
        """Tells whether this was a dry run that would have moved the alias to a new winner."""
        return self.dry_run and not self.reasons and not self.already_champion

    @property
    def ending(self) -> str:
        """Returns in words what became of the alias."""
        if self.would_promote:
            return "a dry run that would promote"
        if self.already_champion:
            return f"version {self.version} is the {self.alias} already"
        if self.promoted:
            return f"promoted version {self.version}"
        return "; ".join(("not promoted", *(self.reasons if self.verdict.passed else ())))

    def __repr__(self) -> str:
        best = self.verdict.best
        gains = (f"gain {digits(g.difference, '+')} on the {g.key}, {words.evidence(best, g)}" for g in best.gains)
        told = f"verdict on {best.name}: {words.of(self.verdict)}; {best.objective.metric} {'; '.join(gains)}"
        return f"<PromotionResult {self.model}: {self.ending}; {told}>"

    @property
    def exit_code(self) -> int:
        """Returns 0 if the winner was promoted, is champion already, or passes in a dry run; else 1."""
        return 0 if self.promoted or (self.dry_run and not self.reasons) else 1

    def as_json(self) -> dict[str, Any]:
        """Returns the object for the JSON line."""
        return vars(self) | {"reasons": list(self.reasons), "verdict": words.as_json(self.verdict)}


def register(context: Context, winner: Contender, scored: Scoring, clock: Callable[[], float]) -> PromotionResult:
    """Says the verdict. If the winner passes, packages and registers it, checks that it serves, and moves the aliases.

    A dry run serves the package, and writes nothing. `scored` holds the base, and also serves the packaged model.

    Raises:
        Failed: the packaged model does not answer as the evaluation did; the alias was not moved.
    """
    champion, verdict, alias = winner.evidence.champion, winner.verdict, context.alias
    before = None if champion is None else champion.number
    result = PromotionResult(context.model, alias, verdict, previous=before, dry_run=context.request.dry_run)
    for reason in words.reasons(verdict) if winner.is_champion else ():  # it stays the champion: nobody else says them
        context.say(reason)
    context.say(f"verdict: {f'{verdict.winner} is ' if verdict.passed else ''}{words.of(verdict)}")
    if champion is not None and winner.is_champion:
        versions.package(context.lookup, context.model, champion)
        context.say(f"{context.model} version {champion.number} is the {alias} already")
        return replace(result, version=before, promoted=True, already_champion=True)
    if not verdict.passed:
        return replace(result, reasons=words.reasons(verdict))
    model = context.registry.model(context.model)
    known = None if model is None else context.registry.of_identity(context.model, winner.candidate.identity)
    back = None if model is None or known is None else versions.taken_back(model, alias, known.number)
    if back is not None:  # whoever rolled the winner back may know what the rows do not show
        objection = f"version {back.previous} was rolled back at {versions.in_words(back.time)} UTC"
        if not context.request.force:
            again = f"qsweep rollback --model {context.model} --to {back.previous}"
            again += "" if alias == "champion" else f" --alias {alias}"
            why = f"{objection}: {again} makes it the {alias} again, and so does --force"
            return replace(result, version=back.previous, reasons=(why,))
        context.force(objection)
    base = scored.base_facts()
    answer, loss = winner.evidence.answer, unquantised(context, winner, base, scored)
    facts = VersionFacts(context, winner, base, loss, tuple(context.forced))
    if not answer.ends:
        context.say(f"warning: {cards.NO_ENDS}")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        adapter, card, labels = winner.candidate.adapter, cards.card(facts), tuple(answer.labels.values())
        example = next(iter(answer.samples), None)
        model_package.write(folder, model_package.Contents(adapter, base, card, example, answer.ends, labels))
        if result.dry_run:
            context.say("serving the package in a fresh process")
            context.say("package: " + _serve(winner, scored, digests.read_files(folder)))
            context.say("dry run: nothing was written")
            return replace(result, unquantised_loss=loss)
        with context.registry.locked(lambda: context.say("waiting for another promotion to end")):
            number = _complete(facts, folder, scored, clock)
            reasons = _move(context, winner, number, clock)
    return replace(result, version=number, promoted=not reasons, reasons=reasons, unquantised_loss=loss)


def unquantised(context: Context, winner: Contender, base: BaseFacts, scored: Scoring) -> float | None:
    """Evaluates the winner on the base without quantisation, on the deciding rows: many people serve this base.

    The loss only informs. None if the base is not quantised. None, and a line that says why, if the evaluation fails.
    """
    scheme, label, evidence = base.quantization["scheme"], winner.candidate.label, winner.evidence
    if not base.traits.is_quantised:
        return None
    where = "on the base without quantisation"
    context.say(f"evaluating {label} {where}")
    trained, spec = evidence.answer.scores[label], context.sweep.config.base
    change = {"scheme": "none", "compute_dtype": base.quantization["compute_dtype"]}
    plain = {
        "quantization": spec.quantization.model_copy(update=change),
        "model": spec.base_model.model_copy(update={"revision": base.revision}),
    }
    asked = {"adapters": {label: winner.candidate.adapter}, "with_base": False, "samples": 0, "with_answers": False}
    try:
        answer = scored.score_apart(spec.model_copy(update=plain), evidence.request.model_copy(update=asked))
    except (ClusterError, TrainableError) as error:
        context.say(f"the loss of {label} {where} is not known: {error}")
        return None
    if label in answer.not_finite:
        context.say(f"warning: the loss of {label} {where} is not finite: serve it in {scheme} only")
        return None
    found = answer.scores[label]
    told = f"{label}: loss {trained.loss:.4f} on the base in {scheme}, {found.loss:.4f} {where}"
    belongs = f"; this adapter belongs to the base in {scheme}: serve it so"
    context.say(told if agreement(trained, found).holds else f"{told}{belongs}")
    return found.loss


def _complete(facts: VersionFacts, folder: Path, scored: Scoring, clock: Callable[[], float]) -> str:
    """Registers the winner, and serves it from the registry once. Returns the number of its version.

    Adds the decision record to `folder`. A version that is complete keeps its files. Its record, tags and description
    become those of this promotion: an earlier one may have used another alias, champion or rows. What was forced once
    stays in the tags.
    """
    context, candidate = facts.context, facts.winner.candidate
    registry, model, identity = context.registry, context.model, candidate.identity
    path = versions.package_path(model, identity)
    registry.make_model(model)
    fault_points.point("promote.after_model")
    known = registry.of_identity(model, identity)
    complete = known if known is not None and known.is_complete else None
    if complete is None:
        files = digests.read_files(folder)
    else:
        files, folder = versions.package(context.lookup, model, complete), folder.with_name("record")
        folder.mkdir()
        before = complete.tags.get(FORCED)
        forced = tuple(dict.fromkeys([*(before.split("; ") if before else ()), *facts.forced]))
        facts = replace(facts, forced=forced)
    record = decision_record.make(facts, files, clock())
    (folder / model_package.RECORD).write_bytes(record.content())
    run_id = candidate.trial.run_id if known is None else known.run_id
    registry.upload(run_id, folder, path)
    fault_points.point("promote.after_upload")
    tags = {IDENTITY: identity, versions.RECORD_DIGEST: record.sha256, **tags_of(facts)}
    tags = {name: text for name, text in tags.items() if complete is None or not _is_of_files(name)}
    version = registry.make_version(model, run_id, path, tags, cards.description(facts))
    fault_points.point("promote.after_version")
    registry.describe_model(model, cards.model_description(facts))
    fault_points.point("promote.after_description")
    context.say(f"registered: {model} version {version.number}{'' if complete is None else ' is there already'}")
    if complete is not None:
        return version.number
    context.say("serving it in a fresh process")
    fetched = context.lookup.files(version.run_id, path)
    if fetched != digests.read_files(folder):
        raise SweepError(
            f"run {version.run_id}: among its artifacts, {path} holds other files than were uploaded: somebody "
            "else writes there; remove the folder and promote again"
        )
    context.say("served from the registry: " + _serve(facts.winner, scored, fetched))
    registry.tag(model, version.number, {versions.DIGEST: versions.digest_of(fetched), STATE: COMPLETE})
    fault_points.point("promote.after_serving")
    return version.number


def _serve(winner: Contender, scored: Scoring, files: Mapping[str, bytes]) -> str:
    """Scores and answers rows with the packaged model in a fresh process without this distribution.

    Returns in words how many rows score and are labelled as evaluated, and the first answer. Raises `Failed` if a loss,
    a label or a prompt differs.
    """
    answer = winner.evidence.answer
    samples = [sample.model_dump() for sample in answer.samples[:SERVED_ROWS]]
    prompts = [sample["columns"] or {"prompt": "Hello"} for sample in samples[: None if answer.labels else 1]]
    job = {"samples": samples, "answers": prompts, "new_tokens": NEW_TOKENS, "refused": PACKAGES}
    printed = scored.serve(model_package.CHECK.read_text(encoding="utf-8"), files, json.dumps(job))
    served = json.loads(printed.splitlines()[-1])
    expected = answer.scores[winner.candidate.label]
    allowed = tolerance(answer.hardware, answer.hardware)
    if not samples or len(served["losses"]) != len(samples):
        raise Failed("the packaged model scored none of the rows that it was to score: nothing is promoted")
    if (problem := difference(served["losses"], expected, allowed)) is not None:
        raise Failed(f"the packaged model is not what was evaluated: {problem}")
    if not all(served["prompts"]):
        raise Failed("the packaged model writes its prompts otherwise than training did")
    counted = {row.row: answer.labels[row.ranked] for row in expected.answers if row.ranked in answer.labels}
    answers = list(zip(served["texts"], served["label_losses"], strict=True))
    if (problem := other_label(answers, counted, allowed)) is not None:
        raise Failed(f"the packaged model does not answer as was counted: {problem}")
    are = "score and are labelled" if answer.labels else "score"
    return f"{len(served['losses'])} rows {are} as evaluated, it answers {' '.join(served['texts'][:1])[:60]!r}"


def other_label(
    answers: Sequence[tuple[str, Mapping[str, float]]], counted: Mapping[int, str], tolerance: float
) -> str | None:
    """Says which row gets another label than was `counted` for its place. None if none does, or only by rounding.

    `answers` has the packaged model's answer to each of the first rows, and its loss of each label.
    """
    for place, (text, losses) in enumerate(answers):
        label = counted.get(place, text)
        gap = losses.get(label, math.inf) - losses.get(text, -math.inf)
        if text != label and not gap <= ONE_ROW * FEW_TOKENS * tolerance:
            return f"row {place + 1} gets {text[:60]!r}, and got {label[:60]!r} in the evaluation"
    return None


def difference(served: Sequence[float], told: Evaluation, tolerance: float) -> str | None:
    """Says how far the losses of the first rows are from those of the evaluation; None within the tolerance.

    The tolerance is for means of many tokens, and grows below `FEW_TOKENS` tokens, where rounding differs by more: in
    bfloat16 a logit of 16 to 32 is a multiple of an eighth.
    """
    rows, tokens = len(served), sum(told.row_tokens[: len(served)])
    allowed = tolerance * max(1.0, FEW_TOKENS / tokens)
    gaps = [abs(loss - before) for loss, before in zip(served, told.row_losses[:rows], strict=True)]
    if sum(gaps) / tokens <= allowed:
        for row, (gap, count) in enumerate(zip(gaps, told.row_tokens, strict=False), start=1):
            if gap / count > ONE_ROW * tolerance * max(1.0, FEW_TOKENS / count):
                return f"its row {row} differs by {gap / count:.2g} per token, much more than rounding does"
        return None
    worst = max(range(rows), key=lambda row: gaps[row] / told.row_tokens[row])
    counted = "its row differs" if rows == 1 else f"its {rows} rows differ"
    return f"{counted} by {sum(gaps) / tokens:.2g} per token, row {worst + 1} the most, and {allowed:.2g} is allowed"


def _move(context: Context, winner: Contender, number: str, clock: Callable[[], float]) -> tuple[str, ...]:
    """Moves the challenger alias and then the asked alias, while that points to the champion of the comparison.

    Returns why the alias does not point to the version; empty if it does.
    """
    registry, model, alias, champion = context.registry, context.model, context.alias, winner.evidence.champion
    before = None if champion is None else champion.number

    def is_at(expected: str | None) -> bool:
        version = registry.at(model, alias)
        return (None if version is None else version.number) == expected

    is_compared = before is None or CHAMPION in winner.verdict.scores
    gain = round(winner.verdict.best.gains[-1].difference, 6) if is_compared else None
    entry = Entry(clock(), "promote", alias, number, before, context.sweep.sweep_id, gain)
    registry.point(model, "challenger", number)
    fault_points.point("promote.after_challenger")
    if not (is_at(before) and versions.move(registry, model, entry, lambda: is_at(before)) and is_at(number)):
        return (f"the {alias} changed meanwhile: run it again, to compare with the one that is there now",)
    context.say(f"{alias}: version {number}" + (f" (before: version {before})" if before is not None else ""))
    return ()


def _is_of_files(tag: str) -> bool:
    """Tells whether a tag describes the files of a version: the base, the adapter or the libraries."""
    return tag in ("adapter_sha256", "base", "base.identity") or tag.startswith("version.")


def tags_of(facts: VersionFacts) -> dict[str, str]:
    """Returns the tags of a version: its sweep, run, base, rows, losses and gains, and the versions of libraries."""
    sweep, winner = facts.context.sweep, facts.winner
    candidate, verdict, answer = winner.candidate, winner.verdict, winner.evidence.answer
    compared = winner.evidence.champion if CHAMPION in verdict.scores else None
    compared_with = f"version {compared.number}" if compared is not None else "base"
    tags = {
        "sweep.id": sweep.sweep_id,
        "sweep.parent_run": sweep.parent_run,
        "sweep.run": candidate.trial.run_id,
        "sweep.trial_key": candidate.trial.trial_key,
        "adapter_sha256": candidate.adapter_sha256,
        "base": cards.base_of(facts),
        "base.identity": winner.evidence.base_identity,
        "data.fingerprint": sweep.data_fingerprint or "",
        "promotion.rows": f"{winner.evidence.rows}, {words.rows(verdict.best)}",
        ROWS: answer.fingerprint,
        "promotion.hardware": answer.hardware,
        "promotion.metric": verdict.objective.metric,
        "promotion.decision": f"passed, min_gain {verdict.rule.min_gain:g}",
        "promotion.candidates": str(len(winner.evidence.candidates)),
        "promotion.compared_with": compared_with,
    }
    tags |= {f"loss.{name}": f"{verdict.losses[name]:.6f}" for name in (BASE, CHAMPION) if name in verdict.losses}
    tags["loss"] = f"{verdict.losses[candidate.label]:.6f}"
    for comparison in verdict.best.gains:
        tags[f"gain.{comparison.key}"] = f"{comparison.difference:.6f} ({words.span(verdict.best, comparison)})"
    tags |= {f"version.{name}": number for name, number in model_package.versions(facts.base).items()}
    if facts.forced:
        tags[FORCED] = "; ".join(facts.forced)[:5000]
    return tags
