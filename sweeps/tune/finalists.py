"""Evaluates adapters again when a sweep ends: scores answers, and takes all rows where reports took a part.

The answers of finalists (`evaluation.when: best`) and missing scores are one batch. With `evaluation.rows: nested` the
trials follow that rank before the first one with all rows, until the best one has all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.loop import Finalist
from sweeps import timeouts
from sweeps.config.number_words import counted, duration
from sweeps.record import digests, samples
from sweeps.record.events import TrialScored
from sweeps.record.folder import writing
from sweeps.record.run_names import label
from sweeps.record.selection import unscored, without_all_rows
from sweeps.record.sweep_record import TrialRecord
from sweeps.record.whole_files import write_whole
from sweeps.tune.actor_calls import RAY, Calls, Repeated
from sweeps.tune.sweep_trials import SweepTrials
from trainables.contract import Evaluation, Failure
from trainables.inputs import json_text
from trainables.specs import TrialSpec


@dataclass(frozen=True)
class FinalistScoring:
    """Asks a host for the scores of the finalists, and writes them into folder and log."""

    trials: SweepTrials
    broker: Any
    say: Callable[[str], None]
    calls: Calls = RAY

    def run(self) -> None:
        """Scores the trials of `selection.unscored`, unless somebody ends the sweep meanwhile.

        The log says why a trial cannot be scored. If its host dies, the sweep fails. The next driver tries again.

        Raises:
            StorageError: the disk cannot be written.
        """
        is_done, tried = self._evaluate(unscored(self.trials.config, self.trials.journal.record), True), set[str]()
        while is_done and (
            due := [t for t in without_all_rows(self.trials.journal.record) if t.trial_key not in tried]
        ):
            tried |= {trial.trial_key for trial in due}
            is_done = self._evaluate(due, False)

    def _evaluate(self, trials: Sequence[TrialRecord], is_scored: bool) -> bool:
        """Evaluates the trials' best adapters on all rows. Returns whether the sweep goes on to the next ones."""
        due = []
        for trial in trials:
            adapter = digests.read_files(self._folder(trial) / "adapter")
            if digests.of_files(adapter) == trial.adapter_sha256:
                spec = TrialSpec.model_validate_json(trial.spec)
                due.append((trial, Finalist(spec=spec, adapter=adapter, is_scored=is_scored)))
            else:
                why = "the files of its adapter are not those that it wrote"
                self._take(trial, Failure(kind="failed", message=why), is_scored)
        if not due:
            return True
        names, count = ", ".join(label(trial.number) for trial, _ in due), counted(len(due), "trial")
        what = f"scoring the answers of {count}" if is_scored else f"evaluating {count} on all rows"
        self.say(f"{what}: {names}")
        for base in dict.fromkeys(finalist.spec.base_name for _, finalist in due):  # a host holds one base
            own = [each for each in due if each[1].spec.base_name == base]
            answer = self._asked(tuple(finalist for _, finalist in own), what)
            if isinstance(answer, Failure):
                done = "scored" if is_scored else "evaluated"
                self.trials.stop.ask(
                    "failed", f"the finalists could not be {done}: {answer.message}; go on with qsweep resume"
                )
                return False
            for (trial, _), found in zip(own, answer or (), strict=answer is not None):
                self._take(trial, found, is_scored)
        return not self.trials.stop.is_ending

    def _asked(self, asked: tuple[Finalist, ...], what: str) -> list[Evaluation | Failure] | Failure | None:
        """Returns the broker's answer; asks again after the loss of a host. Returns None if somebody ends the sweep."""
        question = Repeated(lambda: self.broker.evaluate_finalists.remote(asked), self.calls)
        answer: list[Evaluation | Failure] | Failure | None = None
        began = told = self.calls.now()
        while answer is None and not self.trials.stop.is_ending:
            answer = question.answer(timeouts.START_LOOK_SECONDS)
            if answer is None and (now := self.calls.now()) - told >= timeouts.STILL_SCORING_SECONDS:
                told = now
                self.say(f"still {what}, {duration(now - began)} so far")
        return answer

    def _take(self, trial: TrialRecord, found: Evaluation | Failure, is_scored: bool) -> None:
        """Keeps the scores and the values on all rows. The log gets them, and why scores are missing."""
        if isinstance(found, Failure) and not is_scored:
            self.say(f"{label(trial.number)} could not be evaluated on all rows: {found.message}")
            return
        how, metric = self.trials.config.evaluation, self.trials.config.objectives[0].metric
        scores, unscored, is_part = dict[str, float](), dict[str, str](), trial.best_part is not None
        if isinstance(found, Failure):
            why = found.message
        else:
            scores = {name: found.metrics[name] for name in found.metrics if is_part or name not in trial.best_metrics}
            unscored, why = dict(found.unscored), f"the evaluation gives {', '.join(found.metrics)} only"
            self._keep(trial, found, scores)
        if not is_scored:
            unscored = dict(trial.unscored)
        elif isinstance(found, Failure) or not (unscored or any(map(how.scores_by, found.metrics))):
            unscored = dict.fromkeys(trial.lacking or ([metric] if how.scores_by(metric) else how.names[:1]), why)
        told = TrialScored(
            time=self.trials.clock(),
            trial_key=trial.trial_key,
            step=trial.best_step or 0,
            metrics=scores,
            unscored=unscored,
            has_all_rows=is_part and isinstance(found, Evaluation),
        )
        self.trials.journal.add(told)

    def _keep(self, trial: TrialRecord, found: Evaluation, scores: Mapping[str, float]) -> None:
        """Adds the scores to the files beside the adapter, each file whole, before the log names the scores."""
        folder = self._folder(trial)
        with writing(folder):
            written: Mapping[str, Any] = json_text.parse((folder / "eval_rows.json").read_bytes())
            rows = found.document()
            if trial.best_part is not None:
                written = {name: written[name] for name in ("step", "adapter_sha256")}
            # The loss of the trial's own report stays if that was of all rows.
            of_scores = {name: rows[name] for name in (*scores, "row_values", "row_places") if name in rows}
            if found.answers:
                write_whole(folder / samples.OF_TRIAL, samples.text(found.answers).encode())
            write_whole(folder / "eval_rows.json", json.dumps({**rows, **written, **of_scores}).encode())
            os.utime(folder.parent)  # The mirror looks only into folders that have changed.

    def _folder(self, trial: TrialRecord) -> Path:
        return self.trials.folder.path / str(trial.adapter)
