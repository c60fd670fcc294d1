"""Compares several sweeps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsweep._sweep import Sweep
from qsweep._trials import Trial, trial_of
from qsweep._words import with_keywords

if TYPE_CHECKING:
    from sweeps.report.sweeps_compared import SweepsCompared


@dataclass(frozen=True)
class Compared:
    """Several sweeps side by side, as they were at the time of `compare`; `print` shows `lines`."""

    names: tuple[str, ...]
    """Names of the sweeps in the given order, or of their folders if two sweeps have one name."""
    trials: tuple[Trial, ...]
    """The compared trial of each sweep."""
    metric: str
    settings: Mapping[str, tuple[Any, ...]]
    """Key of the sweep file -> its value in each sweep, if these differ. Data and models are compared by content."""
    differences: tuple[Mapping[str, Any], ...]
    """For each other trial: `difference`, how much better the first trial is, in the metric's unit (None: unknown); the
    ends of its interval `low` and `high` (None where the test in `exact` decides), `confidence` and `rows`; `apart`,
    whether they differ by more than chance; `unknown`, why there is no difference."""
    spent: tuple[Mapping[str, Any], ...]
    """The cost of each sweep: steps, examples, tokens, seconds, gpu_hours."""
    lines: tuple[str, ...]
    """The comparison in words."""
    _sweeps: SweepsCompared = field(repr=False)

    def report(self, output: str | Path | None = None, *, price: float | None = None) -> Path:
        """Writes the comparison as one HTML page; returns the file.

        Args:
            output: the file; `lora-qlora.html` beside the first sweep's folder if left out.
            price: cost of a GPU-hour; the page shows each sweep's sum.

        Raises:
            SweepError: the file cannot be written, or the price is not valid.
        """
        from sweeps.report import page_file

        return page_file.make_of_sweeps(self._sweeps, None if output is None else Path(output), time.time(), price)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@with_keywords
def compare(*sweeps: Sweep | str | Path, storage: str | Path = "results") -> Compared:
    """Compares several sweeps: the differences of their files, the best trial of each sweep, and its cost.

    Args:
        sweeps: two or more, each a Sweep, or a word for `load`, or SWEEP:t03 for a trial other than the best one.
        storage: as in `load`.

    Raises:
        SweepError: a sweep is not there, has no report yet, or is named more than once.
    """
    from sweeps.steering.naming import compare_named, named

    words = [str(each.folder) if isinstance(each, Sweep) else str(each) for each in sweeps]
    found = compare_named(named(words, Path(storage), time.time(), has_address=False))
    document = found.as_json()
    return Compared(
        names=tuple(side.name for side in found.sides),
        trials=tuple(trial_of(each.trial, each.status.folder) for each in found.sides),
        metric=found.objective.metric,
        settings={key: tuple(values) for key, values in document["settings"].items()},
        differences=tuple(document["differences"]),
        spent=tuple(each["spent"] for each in document["sweeps"]),
        lines=tuple(found.lines()),
        _sweeps=found,
    )
