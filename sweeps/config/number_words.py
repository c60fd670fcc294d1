"""Formats numbers for people: counts, limits, sizes, durations, epochs. Pure."""

from __future__ import annotations

from sweeps.config.points import Scalar


def counted(count: int, word: str) -> str:
    """Formats a count: 1 step, 2 steps."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def limit(value: Scalar | None) -> str:
    """Formats a budget or a number of hosts; None is "unlimited"."""
    return "unlimited" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def size(size_bytes: int) -> str:
    """Formats bytes in MB, from 0.1 GB on in GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Formats seconds in suitable units: 40 s, 4 min 30 s, 3 h 10 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def parts(train: int, evaluated: int | None, test: int | None) -> str:
    """Formats the rows of the parts of the data: "600 rows to train on, 32 to evaluate on, 80 to test on"."""
    others = {"to evaluate on": evaluated, "to test on": test}
    return ", ".join([f"{train:,} rows to train on", *(f"{rows:,} {what}" for what, rows in others.items() if rows)])


def epochs(steps: int | None, rows: int, train_rows: int | None) -> str:
    """Formats the steps, rows and epochs of a trial that is not stopped early.

    `steps` is None if they depend on the batch size. `train_rows` is None if not known yet.
    """
    long = "" if steps is None else f" of {counted(steps, 'step')}"
    seen = f"a trial{long} trains on {rows:,} rows"
    if train_rows is None:
        return f"{seen}; how many epochs that is, launch says when the data is ready"
    seen_epochs = _epochs(rows / train_rows)
    return f"{seen}: {seen_epochs} {'epoch' if seen_epochs == '1' else 'epochs'} of all {train_rows:,} rows"


def _epochs(value: float) -> str:
    """Formats a number of epochs: two significant digits below 0.1, no decimals from 10 on."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{float(f'{value:.2g}'):g}" if value < 0.1 else f"{round(value, 2):g}"
