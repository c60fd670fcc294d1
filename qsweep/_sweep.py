"""A sweep in Python. Everything is read from the sweep's folder, while the sweep runs or after."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsweep import _driver, _given
from qsweep._trials import Trial, table_of, trial_of, trials_of
from qsweep._words import with_keywords
from sweeps.errors import ConfigError, Failed, StorageError, SweepError
from trainables.inputs.similar import did_you_mean

if TYPE_CHECKING:
    import pandas

    from sweeps.config.load import LoadedSweep
    from sweeps.promotion.registration import PromotionResult
    from sweeps.record.events import RequestAnswered
    from sweeps.record.folder import SweepFolder
    from sweeps.report.status import Status
    from sweeps.steering.driver_process import Process

_SENDER = "qsweep in Python"
_POLICY = ("top", "alias", "min_gain", "metric")


def _key(trial: Any) -> Any:
    return trial.key if isinstance(trial, Trial) else trial


class Sweep:
    """A sweep on this machine, which runs, waits to go on, or is over."""

    def __init__(self, folder: SweepFolder, process: Process | None = None, shown: int | None = None) -> None:
        """Makes a handle of the sweep in a folder.

        Args:
            process: the sweep's driver, if this process has started it.
            shown: bytes at the start of the driver's log that `wait` skips; None: the log's present length.
        """
        self._folder = folder
        self._process = process
        self._shown = _driver.log_size(folder) if shown is None else shown
        self._begin = 0 if process is None else self._shown  # first byte of the driver's log to search for errors

    @property
    def folder(self) -> Path:
        """Returns the folder with everything about the sweep."""
        return self._folder.path

    @property
    def id(self) -> str:
        """Returns the sweep's id, which MLflow has too."""
        return str(self._folder.document()["sweep_id"])

    def status(self) -> dict[str, Any]:
        """Returns what `qsweep status --json` prints: state, trials, best, seconds_left, adapters and more."""
        return self._read().as_json()

    def wait(self) -> Sweep:
        """Follows the sweep until its driver ends, and returns the sweep. Ctrl-C ends the waiting, and not the sweep.

        Raises:
            Failed: the driver failed; the message says why, and where its log is.
        """
        try:
            _driver.follow(self._folder, self._process, self._shown)
        except KeyboardInterrupt:
            found = f'sweep = qs.load("{self.folder}") finds it'
            print(f"the sweep goes on: {found}; sweep.wait() follows it, sweep.stop() ends it")
            if not _driver.is_interactive():
                raise
            return self
        finally:
            self._shown = _driver.log_size(self._folder)
        self._refuse_failure()
        if _driver.has_displays():  # elsewhere the log that was just shown ends with these lines
            print(*self.lines, sep="\n")
        return self

    def stop(self, trial: Trial | str | None = None) -> str:
        """Ends the sweep, which `resume` continues, or ends one trial (its key, or t03) for good; returns the answer.

        Raises:
            SweepError: the sweep does not run, or refuses.
        """
        from sweeps.steering import asking
        from sweeps.steering.mailbox import StopSweep, StopTrial

        request = StopSweep(sender=_SENDER) if trial is None else StopTrial(sender=_SENDER, trial=_key(trial))
        return self._accepted(asking.answer(self._folder, request))

    def add(self, **values: Any) -> str:
        """Adds a point that is tried next, as in `add(r=8, learning_rate=3e-4)`; returns the answer.

        If the sweep does not run, the point is tried when the sweep is resumed.

        Raises:
            SweepError: the sweep refuses.
        """
        from sweeps.launch import ask_for_more
        from sweeps.steering.mailbox import AddPoint

        point = AddPoint(sender=_SENDER, values=_given.changes_of(values, {}))
        return self._accepted(ask_for_more(self._folder, point))

    def extend(self, changes: Mapping[str, Any] | None = None, /, **keywords: Any) -> str:
        """Changes budgets or hosts: `extend(trials=32)`, `extend({"budget.wall_clock": "2h"})`; returns the answer.

        Raises:
            SweepError: the sweep refuses.
        """
        from sweeps.launch import ask_for_more
        from sweeps.steering.mailbox import ExtendSweep

        told = _given.changes_of(changes or {}, keywords)
        return self._accepted(ask_for_more(self._folder, ExtendSweep(sender=_SENDER, changes=told)))

    @with_keywords
    def refit(
        self,
        trial: Trial | str | None = None,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        all_rows: bool = False,
        wait: bool = True,
        offline: bool = False,
    ) -> Sweep:
        """Trains the best trial anew, or the named one, for longer; returns the sweep of this one trial.

        `steps`, `epochs` and `all_rows` are options of `qsweep refit`; `wait` and `offline` are as in `launch`. Raises
        QsweepError if there is no such trial, or if it cannot be trained; nothing was started.
        """
        from sweeps.launch import refit

        length = {"steps_per_trial": steps, "epochs_per_trial": epochs}
        sweep = refit(self._folder, _key(trial), length, all_rows, time.time())
        return run(sweep, f"qsweep refit {self.folder} --plan", wait, offline)

    @property
    def trials(self) -> list[Trial]:
        """Returns the trials, best first; trials without a rank last."""
        return trials_of(self._read().record, self.folder)

    @property
    def best(self) -> Trial:
        """Returns the best trial so far.

        Raises:
            SweepError: no trial has a value.
        """
        chosen = self._read().selection
        if chosen.winner is None:
            raise SweepError(f"{self.folder}: there is no best trial: {chosen.why}")
        return trial_of(chosen.winner, self.folder)

    @property
    def lines(self) -> tuple[str, ...]:
        """Returns the result so far in words: the best trial, how it compares, its scores, and the sweep's cost."""
        from sweeps.report import answers, best_compared, facts
        from sweeps.statistics.trials import compare_best

        status = self._read()
        separation = compare_best(self._folder, status.record)
        told = best_compared.best_lines(status.record, status.selection, separation)
        told += answers.closing(self._folder, status.selection.winner)
        return (*told, *facts.lines_of(facts.taken(status.record, status.seconds)))

    def table(self) -> pandas.DataFrame:
        """Returns a row per trial, best first: value at its best step, state, settings, steps, metrics, adapter."""
        return table_of(self._read().record, self.folder)

    def curves(self) -> pandas.DataFrame:
        """Returns a row per step up to each trial's last report: train_loss, tokens, seconds; metrics at reports."""
        import pandas

        from sweeps.record.events import TrialReported
        from sweeps.record.folder import read_events

        names = {trial.key: trial.name for trial in self.trials}
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for event, _ in read_events(self._folder.events) if self._folder.events.exists() else ():
            if isinstance(event, TrialReported):
                name = names[event.trial_key]
                for step in event.history:
                    kept = {"train_loss": step.train_loss, "tokens": step.tokens, "seconds": step.seconds}
                    rows[name, step.step] = {"trial": name, "step": step.step, **kept}
                rows.setdefault((name, event.step), {"trial": name, "step": event.step})
                rows[name, event.step] |= event.metrics
        return pandas.DataFrame([rows[place] for place in sorted(rows)], columns=None if rows else ["trial", "step"])

    @with_keywords
    def report(self, output: str | Path | None = None, *, price: float | None = None) -> Path:
        """Writes the sweep as one HTML page; returns the file.

        Args:
            output: the file; `report.html` in the sweep's folder if left out.
            price: cost of a GPU-hour; the page shows the sum.
        """
        from sweeps.report import page_file

        return page_file.make(self._folder, None if output is None else Path(output), time.time(), price)[0]

    @with_keywords
    def promote(self, model: str | None = None, **options: Any) -> PromotionResult:
        """Evaluates the best adapters again, and makes the best one the model's champion if it is better.

        Prints each step, and its progress. The result's `reasons` say why nothing was promoted.

        Args:
            model: name of the registered model; the sweep's `promotion.model` if left out.
            options: options of `qsweep promote`: top, alias, min_gain, metric, eval_data, trial, address, dry_run,
                force.

        Raises:
            QsweepError: a check or an evaluation failed; nothing was moved.
        """
        from sweeps.tracking import stores

        known = (*_POLICY, "eval_data", "trial", "address", "dry_run", "force")
        wrong = [f"{name}: unknown keyword{did_you_mean(name, known)}" for name in options if name not in known]
        rows = options.get("eval_data")
        if not (rows is None or isinstance(rows, str | Path)):
            wrong.append(f"eval_data: is of type {type(rows).__name__}: give the path of a file with the rows")
        for name in ("dry_run", "force"):
            if not isinstance(options.get(name, False), bool):
                wrong.append(f"{name}: {options[name]!r} must be True or False")
        if wrong:
            raise ConfigError(wrong)
        if "trial" in options:
            options["trial"] = _key(options["trial"])
        place = stores.find(str(self.folder))  # before the next import, which takes seconds
        from rich.console import Console

        from sweeps.promotion import expected_time
        from sweeps.promotion.promote import promote
        from sweeps.promotion.request import PromotionRequest
        from sweeps.report.passing_line import PassingLine

        policy = {name: options.pop(name, None) for name in _POLICY}
        options["eval_data"] = None if rows is None else Path(rows)
        asked = PromotionRequest(place, {"model": model, **policy}, **options)
        passing = PassingLine(Console(force_jupyter=False), time.monotonic)
        try:
            outcome = promote(asked, passing.say, tell=lambda progress: passing.show(expected_time.so_far(progress)))
        finally:
            passing.end()
        for reason in outcome.reasons:
            passing.say(f"not promoted: {reason}")
        return outcome

    def yaml(self, path: str | Path | None = None) -> str:
        """Returns a sweep file for this same sweep; also writes it to `path` if given.

        Raises:
            StorageError: the file cannot be written.
        """
        from sweeps.config import load
        from sweeps.config.model import SweepConfig

        text = load.written(SweepConfig.model_validate(self._folder.document()["config"]))
        if path is not None:
            try:
                Path(path).write_text(text, encoding="utf-8")
            except OSError as error:
                raise StorageError(f"{path}: cannot be written: {error.strerror}: name a file elsewhere") from error
        return text

    def __repr__(self) -> str:
        status = self._read()
        return f"<Sweep {status.sweep_id}: {status.state}, {len(status.record.trials)} trials, {self.folder}>"

    def _read(self) -> Status:
        from sweeps.report import status

        return status.read_status(self._folder, time.time())

    def _refuse_failure(self) -> None:
        """Raises Failed if the driver failed. A stopped sweep is no failure."""
        from sweeps.report.status import WORDS

        status, log = self._read(), self._folder.driver_log
        printed = log.read_bytes()[self._begin :].decode(errors="replace").splitlines() if log.exists() else []
        errors = [line.removeprefix("error: ") for line in printed[-60:] if line.startswith("error: ")]
        code = None if self._process is None else self._process.poll()
        if status.state in ("FAILED", "LOST", "NOT_BEGUN"):
            why = WORDS[status.state]
        elif code == 2 or (code == 1 and errors):  # 1 without an error line: the sweep ended and has failures
            why = f"its driver failed with exit code {code}"
        else:
            return
        raise Failed("\n".join([f"{self.folder}: {why}; the driver's log is {log}", *errors]))

    def _accepted(self, answer: RequestAnswered) -> str:
        """Returns the driver's answer. Raises SweepError if the driver refuses."""
        from sweeps.record.folder import is_driven

        if not answer.is_accepted:
            raise SweepError(f"refused: {answer.message}")
        if not (answer.point is not None or answer.changes) or is_driven(self._folder):
            return answer.message
        return (
            f"{answer.message}; the sweep is not running: resume(SWEEP) or qsweep resume {self.folder} goes on with it"
        )


def run(sweep: LoadedSweep, more: str, wait: bool, offline: bool) -> Sweep:
    """Runs a sweep in its own process; see `qsweep.launch`. `more` is the call that shows its whole plan."""
    from sweeps import launch as launching
    from sweeps.report.plan_lines import launch_lines

    sweep, planned = launching.prepare(sweep, print, offline)
    launching.earlier_of(sweep.config)
    folder, _ = launching.create_folder(sweep, planned)
    say(launch_lines(planned, folder.path, more))
    return driven(folder, [], wait)


def say(lines: Sequence[str]) -> None:
    """Prints lines, wrapped at words in a terminal."""
    from sweeps.report.streams import fitted

    print(*(fitted(line, sys.stdout) for line in lines), sep="\n")


def driven(folder: SweepFolder, words: list[str], wait: bool) -> Sweep:
    """Starts `qsweep resume FOLDER WORDS`, and follows it if `wait`."""
    from sweeps.steering import driver_process

    shown = _driver.log_size(folder)
    process = driver_process.start(folder, words)
    sweep = Sweep(folder, process, shown)
    if not wait:
        driver_process.wait_until_it_drives(folder, process)
    return sweep.wait() if wait or process.poll() is not None else sweep
