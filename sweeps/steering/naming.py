"""Finds the sweeps and trials that the words of a command name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.config.uris import is_object_store
from sweeps.errors import ConfigError, SweepError
from sweeps.record.folder import SweepFolder
from sweeps.record.run_names import TRIAL_NAME
from sweeps.record.sweep_record import TrialRecord
from sweeps.report import status
from sweeps.report.status import Status
from sweeps.report.sweeps_compared import SweepsCompared, compared
from sweeps.steering import local_sweeps
from sweeps.steering.answering import no_trial_named, trial_named
from trainables.scoring.requests import BASE


@dataclass(frozen=True)
class Named:
    """A named sweep, and the named trial of it."""

    folder: SweepFolder
    status: Status
    word: str | None
    """The user's word for a trial, or base; None for the sweep itself."""

    @property
    def trial(self) -> TrialRecord | None:
        """Returns the named trial; None for the base, for a whole sweep, and if the sweep has no such trial."""
        return None if self.word is None else trial_named(self.word, self.status.record)

    @property
    def problem(self) -> str | None:
        """Says that the sweep has no such trial; None if nothing is wrong."""
        if self.word == "":
            return f"{self.folder.path.name}: name a trial after the colon, such as {self.folder.path.name}:t00"
        is_there = self.word in (None, BASE) or self.trial is not None
        return None if is_there else no_trial_named(str(self.word), self.status.record)


def named(words: Sequence[str], storage: Path, now: float, has_address: bool = True) -> list[Named]:
    """Finds the sweeps and trials that the words name.

    The first word is a sweep, or SWEEP:TRIAL. Each further word is a trial of the first sweep (t03, a key, or base),
    else SWEEP:TRIAL, else a sweep. If words name trials of the first sweep, the sweep itself is left out. If the words
    name several sweeps, the name of a folder in the storage means this folder, and not the newest sweep of this name.

    Args:
        storage, has_address: see `local_sweeps.find`.
        now: seconds since the epoch.

    Raises:
        SweepError: words name nothing (a line for each), or a sweep cannot be read.
    """
    if not words:
        raise ConfigError(["name two sweeps or more"])
    read: dict[Path, Status] = {}

    def of(word: str, is_beside: bool = True) -> Named:
        sweep, trial = parts(word)
        there = SweepFolder(storage.absolute() / sweep)
        folder = local_sweeps.find(sweep, storage, has_address)
        if is_beside and folder.path.name != sweep and "/" not in sweep and there.config.is_file():
            folder = there
        if folder.path not in read:
            read[folder.path] = status.read_status(folder, now)
        return Named(folder, read[folder.path], trial)

    first = of(words[0], is_beside=False)
    if not all(_is_trial(word, first) for word in words[1:]):
        first = of(words[0])
    found, wrong = [], [first.problem]
    for word in words[1:]:
        if _is_trial(word, first):
            found.append(Named(first.folder, first.status, word))
        else:
            try:
                found.append(of(word))
            except SweepError as error:
                wrong.append(f"{error}; and as a trial: {no_trial_named(word, first.status.record)}")
                continue
        wrong.append(found[-1].problem)
    if problems := [problem for problem in wrong if problem is not None]:
        raise ConfigError(problems)
    is_context = first.word is None and any(each.folder.path == first.folder.path and each.word for each in found)
    return found if is_context else [first, *found]


def compare_named(found: Sequence[Named]) -> SweepsCompared:
    """Compares named sweeps. Raises ConfigError unless they are two or more, each named once."""
    if len(found) < 2:
        (only,) = found
        name = only.folder.path.name
        if only.word is None:
            raise ConfigError([f"{name}: there is no other sweep to compare it with: name two or more"])
        way_out = "there is no trial of another sweep to compare it with: name one, as SWEEP or SWEEP:t03"
        raise ConfigError([f"{name}:{only.word}: {way_out}"])
    if any(each.word == BASE for each in found):
        raise ConfigError(["base: stands beside trials of one sweep: name no other sweep"])
    places = [each.folder.path for each in found]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        way_out = f"name each sweep once; qsweep compare {twice.name} t00 t01 compares trials of one sweep"
        raise ConfigError([f"{twice.name} is named more than once, or by its trials: {way_out}"])
    return compared([(each.status, each.trial) for each in found])


def _is_trial(word: str, first: Named) -> bool:
    return bool(word == BASE or TRIAL_NAME.fullmatch(word) or trial_named(word, first.status.record))


def parts(word: str) -> tuple[str, str | None]:
    """Splits SWEEP:TRIAL; the trial is None for a sweep alone. A sweep's name has no colon."""
    sweep, _, trial = word.rpartition(":")
    return (word, None) if not sweep or "/" in trial or is_object_store(word) else (sweep, trial)
