"""Says how long promotion's evaluations take, by the evaluations of the sweep, and how far they have come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from sweeps.config.number_words import counted, duration
from sweeps.config.uris import local_storage
from sweeps.errors import SweepError
from sweeps.promotion.gate import CHAMPION
from sweeps.promotion.request import Context
from sweeps.record.events import BaseEvaluated, Event, HostsStarted, TrialReported
from sweeps.record.folder import read_events
from sweeps.steering import local_sweeps
from trainables.scoring.requests import BASE, ScoringProgress
from trainables.specs import EvaluationSpec


def in_words(context: Context, rows: Callable[[], int | None], losses: int, answers: int = 0, loads: int = 0) -> str:
    """Formats the expected time as ", about 2 min 05 s ..."; empty if the sweep's log, or the rows, do not tell.

    The log of a sweep that is named by its id or name is looked for in its `storage`. Of each load of the base it is
    known how long it took the sweep's hosts.

    Args:
        rows: counts the rows.
        losses: how many models' losses are computed; the base is one.
        answers: how many models' answers are scored.
        loads: how many times a base is loaded.
    """
    sweep, scores = context.sweep, context.sweep.config.evaluation
    try:
        named = context.request.place.folder or sweep.sweep_id
        folder = local_sweeps.find(str(named), Path(local_storage(sweep.config.storage)))
        events = [event for event, _ in read_events(folder.events)] if folder.holds(sweep.sweep_id) else []
    except SweepError:
        return ""
    models = {False: losses, True: answers}
    each = {graded: seconds_of_a_row(events, scores, graded) for graded, count in models.items() if count}
    if None in each.values() or (count := rows()) is None:
        return ""
    seconds = sum(models[graded] * (of_row or 0.0) * count for graded, of_row in each.items())
    starts = [event.time - event.since for event in events if isinstance(event, HostsStarted)]
    seconds += loads * min(starts, default=0.0)
    return f", about {duration(max(1.0, seconds))} by this sweep's evaluations"


def seconds_of_a_row(events: Iterable[Event], scores: EvaluationSpec, with_answers: bool) -> float | None:
    """Returns seconds of the sweep's evaluations for each adapter and row; None if the log does not tell. Pure.

    A host evaluates several adapters together, so time in which several are evaluated counts once. The estimate is
    therefore too short for a sweep whose hosts all evaluate at once. With `with_answers`, only evaluations that score
    answers too are used, and only answered rows count.
    """
    rows, spans, parts = 0, [], list[int]()
    for event in events:
        if isinstance(event, BaseEvaluated):
            rows = event.answered if with_answers else event.rows
        elif isinstance(event, TrialReported) and event.history:
            is_scored = any(map(scores.scores_by, event.metrics))
            spans += [(event.history[-1].time, event.evaluated_time)] if is_scored == with_answers else []
            parts += [0 if event.part is None else event.part.rows] if is_scored == with_answers else []
    total, until = 0.0, -math.inf
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total / sum(part or rows for part in parts) if spans and rows else None


def so_far(progress: ScoringProgress) -> str:
    """Formats what is being done, and of how many rows, as "  t00: answering, 42 of 80 rows done". Pure."""
    if progress.name is None:
        return f"  {progress.doing}"
    name = {BASE: "the base", CHAMPION: "the champion"}.get(progress.name, progress.name)
    under_way = f", the answers under way at token {progress.token}" if progress.token else ""
    return f"  {name}: {progress.doing}, {progress.done} of {counted(progress.rows, 'row')} done{under_way}"
