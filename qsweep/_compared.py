"""Several sweeps side by side."""

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
    """Sweeps side by side, as they were when they were compared; `print` shows `lines`."""

    names: tuple[str, ...]
    """Of the sweeps, in the order that they were given; those of their folders where names are equal."""
    trials: tuple[Trial, ...]
    """The trial of each that is compared."""
    metric: str
    """What the trials are compared by."""
    settings: Mapping[str, tuple[Any, ...]]
    """Key of the sweep file -> its value in each sweep, where these differ; data and model count by their content."""
    differences: tuple[Mapping[str, Any], ...]
    """Of each other trial: `difference`, how much better the first one is, in the metric's unit (None: not comparable);
    the ends of its interval `low` and `high`, `confidence` and `rows`; `apart`; `unknown`, why there is none."""
    spent: tuple[Mapping[str, Any], ...]
    """What each sweep took: steps, examples, tokens, seconds, gpu_hours."""
    lines: tuple[str, ...]
    """The same in words."""
    _sweeps: SweepsCompared = field(repr=False)

    def report(self, output: str | Path | None = None, *, price: float | None = None) -> Path:
        """Writes them as one HTML page; the file.

        Args:
            output: the file; `lora-qlora.html` beside the first sweep's folder if left out.
            price: what a GPU-hour costs; the page tells the sum of each sweep.

        Raises:
            SweepError: the file cannot be written, or the price is none.
        """
        from sweeps.report import page_file

        return page_file.make_of_sweeps(self._sweeps, None if output is None else Path(output), time.time(), price)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@with_keywords
def compare(*sweeps: Sweep | str | Path, storage: str | Path = "results") -> Compared:
    """Several sweeps side by side: what differs in their files, the best trial of each, and what each took.

    Args:
        sweeps: two or more, each a Sweep, or what `load` takes, or SWEEP:t03 for that trial in place of the best one.
        storage: as in `load`.

    Raises:
        SweepError: one is not there, has no report yet, or is named more than once.
    """
    from sweeps.steering.naming import named, several

    words = [str(each.folder) if isinstance(each, Sweep) else str(each) for each in sweeps]
    found = several(named(words, Path(storage), time.time(), has_address=False))
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
