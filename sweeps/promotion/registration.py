"""A winner registered: packaged, uploaded, made a version, served once, and its aliases moved, the real one last.

Every write can be done twice, and is found again by the winner's identity: what was interrupted anywhere is ended by
doing it again. Right before the alias moves, it must still point to the champion that was compared with.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.scoring import Scoring
from sweeps.errors import SweepError
from sweeps.promotion import cards, gate, packages
from sweeps.promotion.contest import Contest
from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.record import digests, faults
from sweeps.tracking import package
from sweeps.tracking.registry import COMPLETE, IDENTITY, STATE, Entry, Version, previous
from trainables.scoring.requests import BASE, Answer, Parts

NEW_TOKENS = 16
OURS = ("sweeps", "cluster", "trainables", "search_spaces")
"""Import names of this distribution: a packaged model must do without them."""


@dataclass(frozen=True)
class Registered:
    """What became of the winner."""

    version: str | None = None
    """None in a dry run."""
    promoted: bool = False
    """Whether the alias points to it."""
    reasons: tuple[str, ...] = ()
    """Why it does not."""


class Registration:
    """The steps after a verdict that passed."""

    def __init__(self, contest: Contest, verdict: Verdict, scored: Scoring) -> None:
        assert contest.answer is not None
        self._contest = contest
        self._verdict = verdict
        self._answer: Answer = contest.answer
        self._scored = scored

    def register(self, now: float) -> Registered:
        """Packages and registers the winner, checks that it serves, and moves the aliases."""
        parts = self._scored.parts()
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "model"
            story = self._story(parts)
            adapter = self._contest.adapters[self._contest.winner.label]
            example = next(iter(self._answer.samples), None)
            package.write(folder, package.Contents(adapter, parts, cards.card(story), example))
            if self._contest.asked.dry_run:
                self._contest.say("package: " + self._serves(digests.read(folder)))
                self._contest.say("dry run: nothing was written")
                return Registered()
            with self._contest.registry.locked(lambda: self._contest.say("waiting for another promotion to end")):
                version = self._version(folder, story)
                return self._move(version, now)

    def _version(self, folder: Path, story: cards.Story) -> Version:
        """The winner's version, complete; one that is there already is kept, or completed."""
        identity = self._contest.identity(self._contest.winner.label)
        self._contest.registry.make_model(self._contest.model)
        faults.point("promote.after_model")
        known = self._contest.registry.of_identity(self._contest.model, identity)
        if known is not None and known.is_complete:
            packages.verified(self._contest.lookup, self._contest.model, known)
            self._contest.say(f"registered: {self._contest.model} version {known.number} is there already")
            return known
        path = packages.where(self._contest.model, identity)
        self._contest.registry.upload(self._contest.winner.run_id, folder, path)
        faults.point("promote.after_upload")
        tags = {IDENTITY: identity, **self._tags(story)}
        version = self._contest.registry.make_version(
            self._contest.model, self._contest.winner.run_id, path, tags, cards.description(story)
        )
        faults.point("promote.after_version")
        self._contest.registry.describe_model(self._contest.model, cards.model_description(story))
        faults.point("promote.after_description")
        self._contest.say(f"registered: {self._contest.model} version {version.number}")
        self._contest.say("serving it in a fresh process")
        fetched = self._contest.lookup.adapter(version.run_id, path)
        if fetched != digests.read(folder):
            raise SweepError(
                f"run {version.run_id}: among its artifacts, {path} holds other files than were uploaded: somebody "
                "else writes there; remove the folder and promote again"
            )
        self._contest.say("served from the registry: " + self._serves(fetched))
        self._contest.registry.tag(
            self._contest.model, version.number, {packages.DIGEST: digests.of_files(fetched), STATE: COMPLETE}
        )
        faults.point("promote.after_serving")
        return version

    def _serves(self, files: Mapping[str, bytes]) -> str:
        """What a fresh process made of the packaged model, without this distribution. Raises when it is not right."""
        samples = [sample.model_dump() for sample in self._answer.samples]
        answers = [sample["columns"] or {"prompt": "Hello"} for sample in samples[:1]]
        job = {"samples": samples, "answers": answers, "new_tokens": NEW_TOKENS, "refused": OURS}
        found = json.loads(
            self._scored.serve(package.CHECK.read_text(encoding="utf-8"), files, json.dumps(job)).splitlines()[-1]
        )
        expected = self._answer.scores[self._contest.winner.label]
        allowed = gate.tolerance(self._answer.hardware, self._answer.hardware)
        if not samples or len(found["losses"]) != len(samples):
            raise SweepError("the packaged model scored none of the rows that it was to score: nothing is promoted")
        for place, loss in enumerate(found["losses"]):
            gap = abs(loss - expected.row_losses[place]) / expected.row_tokens[place]
            if not gap <= allowed:
                raise SweepError(
                    f"the packaged model is not what was evaluated: row {place + 1} differs by {gap:.2g} per token, "
                    f"more than {allowed:g}"
                )
        if not all(found["prompts"]):
            raise SweepError("the packaged model writes its prompts otherwise than training did")
        text = " ".join(found["texts"][:1])
        return f"{len(found['losses'])} rows score as evaluated, it answers {text[:60]!r}"

    def _move(self, version: Version, now: float) -> Registered:
        """Challenger, history, previous, and last the alias, if it still is where it was when it was compared with."""
        alias, number = self._contest.policy.alias, version.number
        before = self._contest.champion.number if self._contest.champion is not None else None
        gain = self._verdict.of(self._contest.winner.label)[-1].gain
        entry = Entry(now, "promote", alias, number, before, self._contest.sweep.sweep_id, round(gain, 6))
        self._contest.registry.point(self._contest.model, "challenger", number)
        faults.point("promote.after_challenger")
        if not self._is_still(before):
            return self._overtaken(number)
        self._contest.registry.remember(self._contest.model, entry)
        faults.point("promote.after_history")
        if before is not None:
            self._contest.registry.point(self._contest.model, previous(alias), before)
        faults.point("promote.after_previous")
        if not self._is_still(before):
            self._contest.registry.forget_last(self._contest.model, entry)
            return self._overtaken(number)
        self._contest.registry.point(self._contest.model, alias, number)
        faults.point("promote.after_alias")
        if not self._is_still(number):
            return self._overtaken(number)
        self._contest.say(f"{alias}: version {number}" + (f" (before: version {before})" if before is not None else ""))
        return Registered(number, True)

    def _is_still(self, expected: str | None) -> bool:
        found = self._contest.registry.at(self._contest.model, self._contest.policy.alias)
        return (None if found is None else found.number) == expected

    def _overtaken(self, number: str) -> Registered:
        alias = self._contest.policy.alias
        reason = f"the {alias} changed meanwhile: run it again, to compare with the one that is there now"
        return Registered(number, False, (reason,))

    def _story(self, parts: Parts) -> cards.Story:
        quantization = parts.quantization
        scheme = {"none": "not quantised"}.get(quantization["scheme"], quantization["scheme"])
        return cards.Story(
            model=self._contest.model,
            alias=self._contest.policy.alias,
            sweep=self._contest.sweep,
            winner=self._contest.winner,
            verdict=self._verdict,
            rows=self._contest.rows(),
            base=parts.source + (f" at {parts.revision}" if parts.revision else ""),
            hub_id=parts.source if parts.kind == "hub" else None,
            quantization=f"{scheme}, {quantization['compute_dtype']}",
            licence=parts.licence,
            install_base=package.install_base(parts),
            forced=self._contest.forced,
            versions=package.versions(parts),
        )

    def _tags(self, story: cards.Story) -> dict[str, str]:
        """The version's lineage."""
        winner, verdict = self._contest.winner, self._verdict
        tags = {
            "sweep.id": self._contest.sweep.sweep_id,
            "sweep.parent_run": self._contest.sweep.parent_run,
            "sweep.run": winner.run_id,
            "sweep.trial_key": winner.trial_key,
            "adapter_sha256": digests.of_files(self._contest.adapters[winner.label]),
            "base": story.base,
            "base.identity": self._contest.base_identity(),
            "data.fingerprint": self._contest.sweep.data_fingerprint or "",
            "promotion.rows": f"{story.rows}, {verdict.rows} rows",
            "promotion.rows_fingerprint": self._answer.fingerprint,
            "promotion.hardware": self._answer.hardware,
            "promotion.decision": f"passed, min_gain {verdict.min_gain:g}",
            "promotion.candidates": str(len(self._contest.trials)),
            "promotion.compared_with": f"version {self._contest.champion.number}"
            if self._contest.champion is not None
            else "base",
        }
        tags |= {f"loss.{name}": f"{verdict.losses[name]:.6f}" for name in (BASE, CHAMPION) if name in verdict.losses}
        tags["loss"] = f"{verdict.losses[winner.label]:.6f}"
        for found in verdict.of(winner.label):
            tags[f"gain.{found.against}"] = f"{found.gain:.6f} ({found.low:.6f} to {found.high:.6f})"
        tags |= {f"version.{name}": number for name, number in story.versions.items()}
        if self._contest.forced:
            tags["promotion.forced"] = "; ".join(self._contest.forced)[:5000]
        return tags
