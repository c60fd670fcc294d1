"""What is promoted, and whether it is better: candidates, their adapters, a second evaluation, and the gate.

The steps are `Contest`'s methods, in order. Nothing is written here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cluster.errors import ClusterError
from cluster.scoring import Scoring
from sweeps.config.model import Promotion as Policy
from sweeps.config.passwords import without_passwords
from sweeps.errors import ConfigError, SweepError
from sweeps.promotion import candidates, gate, packages
from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.record import digests
from sweeps.tracking.lookup import FoundSweep, Lookup, TrialRun
from sweeps.tracking.registry import IDENTITY, Registry, Version
from trainables.contract import Evaluation, Preview
from trainables.errors import TrainableError
from trainables.scoring import requests as scores
from trainables.scoring.requests import Answer, Request, Scores
from trainables.specs import TrialSpec

SAMPLES = 4
"""Rows that the served model must score like the evaluation did."""
SEED = 0
"""Of the bootstrap: the same losses give the same verdict."""
_DECIDING = {"test": "data.test", "held_out": "data.eval, all of it"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the policy."""

    sweep: str
    """Id, name or folder."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """Fields of the sweep file's policy that are set here instead."""
    eval_data: Path | None = None
    trial: str | None = None
    tracking_uri: str | None = None
    address: str | None = None
    dry_run: bool = False
    force: bool = False


@dataclass
class Contest:
    """One promotion up to the verdict, step by step; each step needs those before it."""

    asked: Asked
    policy: Policy
    uri: str
    sweep: FoundSweep
    say: Say
    trials: list[TrialRun] = field(default_factory=list)
    adapters: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Label of a candidate, or CHAMPION -> files."""
    reported: dict[str, Evaluation] = field(default_factory=dict)
    champion: Version | None = None
    forced: list[str] = field(default_factory=list)
    """What --force was needed for."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    """On the rows that decide."""
    verdict: Verdict | None = None

    def __post_init__(self) -> None:
        self.lookup = Lookup(self.uri)
        self.registry = Registry(self.uri)

    @property
    def model(self) -> str:
        """The registered model's name."""
        assert self.policy.model is not None
        return self.policy.model

    @property
    def winner(self) -> TrialRun:
        """The candidate that the gate looked at."""
        assert self.verdict is not None
        return next(trial for trial in self.trials if trial.label == self.verdict.winner)

    # What is there

    def find_champion(self) -> None:
        """The version that the alias points to now; refuses a name that is taken by something else."""
        self.registry.model(self.model)
        self.champion = self.registry.at(self.model, self.policy.alias)
        if self.champion is not None and IDENTITY not in self.champion.tags:
            raise SweepError(
                f"{self.model}: version {self.champion.number}, its {self.policy.alias}, was not made by qsweep: there "
                "is no adapter to compare with; move the alias or choose another"
            )

    def choose(self) -> None:
        """The candidates."""
        metric = self.policy.metric
        self.trials = candidates.choose(self.sweep, self.policy, self.asked.trial, self.asked.force)
        for trial in self.trials:
            if not trial.is_ranked(metric):
                self._force(f"{trial.label} is {trial.state}")
        shown = ", ".join(f"{trial.label} {trial.best(metric):.4f}" for trial in self.trials)
        self.say(f"candidates by best {metric}: {shown}")

    def fetch(self) -> None:
        """The candidates' adapters and what they reported, from MLflow, verified."""
        for trial in self.trials:
            files = self.lookup.adapter(trial.run_id)
            if trial.adapter_sha256 is None:
                self._refuse(f"{trial.label}: its run {trial.run_id} has no tag sweep.adapter_sha256 to verify it by")
            elif digests.of_files(files) != trial.adapter_sha256:
                raise SweepError(
                    f"{trial.label}: its adapter in MLflow (run {trial.run_id}) is not the one that the trial wrote: "
                    "sha256 differs; choose another with --trial"
                )
            self._harmless(trial.label, files)
            self.adapters[trial.label] = files
            self.reported[trial.label] = self._reported(trial)
        self.say("adapters: fetched and verified")

    def _reported(self, trial: TrialRun) -> Evaluation:
        """What the trial was scored with; on what decides how exactly it must come out again."""
        reported = self.lookup.reported(trial.run_id)
        if trial.rows_sha256 is None or reported.sha256 != trial.rows_sha256:
            self._refuse(f"{trial.label}: its eval_rows.json in MLflow is not the one that the trial wrote")
        if not reported.evaluation.hardware:
            self._refuse(f"{trial.label}: it is not known on what it was evaluated")
        return reported.evaluation

    def _harmless(self, label: str, files: Mapping[str, bytes]) -> None:
        wrong = scores.problems(self.sweep.config.base, files)
        if wrong:
            raise ConfigError([f"{label}: {problem}" for problem in wrong])

    def base(self) -> TrialSpec:
        """The base as the candidates were evaluated on, the type of its activations included."""
        spec = self.sweep.config.base
        found = {evaluation.hardware for evaluation in self.reported.values() if evaluation.hardware}
        if len({hardware.split()[1] for hardware in found}) == 1:
            dtype = found.pop().split()[1]
            quantization = spec.quantization.model_copy(update={"compute_dtype": dtype})
            spec = spec.model_copy(update={"quantization": quantization})
        return spec

    def check_content(self, scored: Scoring) -> None:
        """Base and data are still those that the sweep began with, and the champion's base is this one."""
        if self.asked.eval_data is not None:
            data = self.sweep.config.base.rows
            wrong = scores.check_rows(data, str(self.asked.eval_data))
            look = scores.look_at_rows(data, str(self.asked.eval_data)) if not wrong else Preview(problems=tuple(wrong))
            if look.problems:
                raise ConfigError(look.problems)
            for warning in look.warnings:
                self.say(f"warning: {warning}")
        try:
            self.fingerprints = scored.fingerprint()
        except (ClusterError, TrainableError) as error:
            raise SweepError(
                f"{error}: promotion evaluates on the sweep's own base and rows: put it there, run this where the "
                "sweep ran, or give --address of a cluster that has it"
            ) from None
        if not self.sweep.fingerprints:
            self.say("warning: an earlier version ran this sweep: whether base and data are still its own is not known")
        for name, before in self.sweep.fingerprints.items():
            if self.fingerprints.get(name, before) != before:
                self._refuse(f"{name}: its content is not what the sweep began with")
        self._check_champion()

    def _check_champion(self) -> None:
        if self.champion is None:
            return
        theirs = self.champion.tags.get("base.identity")
        if theirs != self.base_identity():
            self._refuse(
                f"{self.model}: its {self.policy.alias}, version {self.champion.number}, is on another base "
                f"({theirs}) than this sweep ({self.base_identity()})"
            )
            return
        files = packages.verified(self.lookup, self.model, self.champion)
        mine = self.sweep.config.base.rows.model_dump(include=set(packages.form(files)))
        if packages.form(files) != mine:
            # In a form that it was not taught, it would look worse than it is.
            self._refuse(
                f"{self.model}: its {self.policy.alias}, version {self.champion.number}, reads rows in another form "
                "(prompt, completion, messages, text or system) than this sweep"
            )
            return
        self.adapters[CHAMPION] = packages.adapter(files)

    def base_identity(self) -> str:
        """What makes adapters comparable: the base and its quantisation."""
        quantization = self.sweep.config.quantization
        double = " double" if quantization.scheme != "none" and quantization.double_quant else ""
        return f"{self.fingerprints['model']} {quantization.scheme}{double}"

    # Evaluation

    def evaluate_again(self, scored: Scoring) -> None:
        """The candidates on the rows that they were scored on; what they reported must come out again."""
        mine = {label: files for label, files in self.adapters.items() if label != CHAMPION}
        self.say(f"evaluating {len(mine)} on the rows that the sweep was scored on")
        answer = scored.score(Request(rows="eval", adapters=mine))
        tokens = self.sweep.data_fingerprint
        if tokens is not None and answer.fingerprint[: len(tokens)] != tokens:
            self._refuse("data: its tokens are not those that the sweep trained on")
        for label, reported in self.reported.items():
            before = Scores(row_losses=reported.row_losses, row_tokens=reported.row_tokens)
            found = gate.agreement(before, reported.hardware, answer.scores[label], answer.hardware)
            claimed = next(trial for trial in self.trials if trial.label == label).metrics.get("best_eval_loss")
            loss = answer.scores[label].loss
            if not found.holds or (claimed is not None and not abs(claimed - loss) <= found.tolerance):
                raise SweepError(
                    f"{label}: evaluates to {loss:.5f} and reported {claimed or math.nan:.5f}; its rows differ by "
                    f"{found.difference:.2g} per token, more than {found.tolerance:g} ({found.hardware}): adapter, "
                    "base, rows or libraries are not those of the sweep"
                )
            self.say(
                f"  {label}: {loss:.4f}, as reported (rows differ by {found.difference:.1g}, tolerance "
                f"{found.tolerance:g} for {found.hardware})"
            )

    def decide(self, scored: Scoring) -> Verdict:
        """The candidates, the base and the champion on the rows that decide, and the gate's verdict."""
        rows = self._deciding()
        self.say(f"evaluating base{', champion' if CHAMPION in self.adapters else ''} and candidates on {self.rows()}")
        request = Request(rows=rows, adapters=self.adapters, with_base=True, samples=SAMPLES)
        self.answer = scored.score(request)
        found = dict(self.answer.scores)
        labels = [trial.label for trial in self.trials]
        best = min(labels, key=lambda label: found[label].loss)
        if self.champion is not None and self.identity(best) == self.champion.tags[IDENTITY]:
            # It is the champion: there is nothing to compare it with.
            found.pop(CHAMPION, None)
        self.verdict = gate.decide(found, labels, self.policy.min_gain, np.random.default_rng(SEED))
        for warning in self.verdict.warnings:
            self.say(f"warning: {warning}")
        return self.verdict

    def _deciding(self) -> str:
        data = self.sweep.config.base.rows
        if self.asked.eval_data is not None:
            if scores.seen_by_search(data, str(self.asked.eval_data)):
                self.say("warning: --eval-data holds the rows of data.eval: rows decide that the search has seen")
            return str(self.asked.eval_data.absolute())
        if data.test is not None:
            return "test"
        self.say("warning: there is no data.test and no --eval-data: rows decide that the search has seen")
        return "held_out"

    def rows(self) -> str:
        """The rows that decide, in words."""
        if self.asked.eval_data is not None:
            return self.asked.eval_data.name
        return _DECIDING["held_out" if self.sweep.config.base.rows.test is None else "test"]

    def is_champion(self) -> bool:
        """Whether the winner is the champion already."""
        return self.champion is not None and self.champion.tags[IDENTITY] == self.identity(self.winner.label)

    def identity(self, label: str) -> str:
        """What makes a version the same one: the sweep, the trial, and the adapter's files."""
        trial = next(trial for trial in self.trials if trial.label == label)
        parts = (self.sweep.sweep_id, trial.trial_key, digests.of_files(self.adapters[label]))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _force(self, what: str) -> None:
        self.forced.append(what)
        self.say(f"forced: {what}")

    def _refuse(self, what: str) -> None:
        """An error, unless --force turns it into something that the version tells of."""
        what = without_passwords(what)
        if not self.asked.force:
            raise SweepError(f"{what}; --force does it all the same, and the version says so")
        self._force(what)
