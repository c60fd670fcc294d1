"""Says how long promotion's evaluations take, by the evaluations of the sweep, and how far they have come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from sweeps.config.number_words import counted, duration
from sweeps.errors import StorageError
from sweeps.promotion.gate import CHAMPION
from sweeps.promotion.request import Context
from sweeps.record.events import BaseEvaluated, Event, TrialReported
from sweeps.record.folder import SweepFolder, read_events
from trainables.scoring.requests import BASE, ScoringProgress
from trainables.specs import EvaluationSpec


def in_words(context: Context, adapters: int, rows: Callable[[], int | None], with_answers: bool = False) -> str:
    """Formats the expected time as ", about 2 min 05 s ..."; empty if the sweep's log, or the rows, are not here.

    `adapters` counts the base too. `rows` counts the rows. `with_answers` tells whether answers are scored.
    """
    folder, scores = context.request.place.folder, context.sweep.config.evaluation
    if folder is None:
        return ""
    try:
        events = (event for event, _ in read_events(SweepFolder(folder).events))
        each = seconds_of_a_row(events, scores, with_answers)
    except StorageError:
        return ""
    count = None if each is None else rows()
    if each is None or count is None:
        return ""
    return f", about {duration(max(1.0, each * count * adapters))} by this sweep's evaluations"


def seconds_of_a_row(events: Iterable[Event], scores: EvaluationSpec, with_answers: bool) -> float | None:
    """Returns seconds of the sweep's evaluations for each adapter and row; None if the log does not tell. Pure.

    A host evaluates several adapters together, so time in which several are evaluated counts once. The estimate is
    therefore too short for a sweep whose hosts all evaluate at once. With `with_answers`, only evaluations that score
    answers too are used, and only answered rows count.
    """
    rows, spans = 0, []
    for event in events:
        if isinstance(event, BaseEvaluated):
            rows = event.answered if with_answers else event.rows
        elif isinstance(event, TrialReported) and (report := event.report).history:
            is_scored = any(map(scores.scores_by, report.metrics))
            spans += [(report.history[-1].time, report.time)] if is_scored == with_answers else []
    total, until = 0.0, -math.inf
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total / len(spans) / rows if spans and rows else None


def so_far(progress: ScoringProgress) -> str:
    """Formats what is being done, and of how many rows, as "  t00: answering, 42 of 80 rows done". Pure."""
    if progress.name is None:
        return f"  {progress.doing}"
    name = {BASE: "the base", CHAMPION: "the champion"}.get(progress.name, progress.name)
    under_way = f", the answers under way at token {progress.token}" if progress.token else ""
    return f"  {name}: {progress.doing}, {progress.done} of {counted(progress.rows, 'row')} done{under_way}"
