"""Says a verdict of the gate, for people and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sweeps.promotion.gate import CHAMPION, OUTCOMES, Standing, Verdict
from sweeps.statistics import intervals
from sweeps.statistics.comparison import Comparison
from sweeps.statistics.confidence import percent
from sweeps.statistics.intervals import counted_units
from trainables.objective import FEW_ROWS, LEAST_ROWS, digits
from trainables.scoring.requests import BASE

_OF_LIMITS = {True: "holds", False: "worse", None: "cannot tell"}


def of(verdict: Verdict) -> str:
    """Formats the verdict: "better", "cannot be told yet: about 120 more rows would tell"."""
    by = "" if verdict.decided_by is None else f" ({verdict.decided_by.name})"
    if verdict.outcome != "cannot_tell":
        return f"{'better' if verdict.passed else 'not better'}{by}"
    return f"cannot be told{' yet' if verdict.rows_needed else ''}: {_needed(verdict.decided_by or verdict.best)}{by}"


def reasons(verdict: Verdict) -> tuple[str, ...]:
    """Lists why the winner does not pass, decided gains first; empty if it passes."""
    best = verdict.best
    if verdict.decided_by is not None:
        return (_reason_of_limit(verdict.decided_by, verdict.winner),)
    few = [f"{_only(verdict)}: at least {LEAST_ROWS} are needed"] if best.rows < LEAST_ROWS else []
    open_last = sorted(best.gains, key=lambda each: best.is_large_enough(each) is None)
    return (*few, *filter(None, (_reason(best, each) for each in open_last if best.is_large_enough(each) is not True)))


def warnings(verdict: Verdict) -> tuple[str, ...]:
    """Lists what makes the verdict less certain than its intervals say, and limits that may not hold."""
    best, ranked, found = verdict.best, verdict.rule.ranked, []
    if ranked > len(verdict.candidates):
        found.append(
            f"the rows that decide have ranked the {ranked} trials of the sweep: the confidence, "
            f"{percent(best.confidence)}, counts all of them as comparisons"
        )
    if LEAST_ROWS <= best.rows < FEW_ROWS:
        found.append(f"{_only(verdict)}: with fewer than {FEW_ROWS} the interval may be too narrow")
    found += [
        f"{best.name}'s gain on the {each.key} has the {evidence(best, each)}: "
        "the interval hangs on how many such rows there are"
        for each in best.gains
        if each.carried_by and each.exact is None
    ]
    worse = (each for each in verdict.beside if each.lowest < 0 and each is not verdict.decided_by)
    return (*found, *(_reason_of_limit(each, best.name) for each in worse))


def unseen(verdict: Verdict) -> str:
    """Says what share of bad cases the deciding rows may miss."""
    return intervals.unseen(verdict.best.rows, verdict.best.is_grouped)


def rows(standing: Standing) -> str:
    """Formats the number of rows: "80 rows", "16 groups of rows"."""
    return counted_units(standing.rows, standing.is_grouped)


def limit(standing: Standing) -> str:
    """Formats the name of a limit: "slice language=de (exact_match, 12 rows)", "choice (80 rows)"."""
    metric = "" if standing.name == standing.objective.metric else f"{standing.objective.metric}, "
    return f"{standing.name} ({metric}{rows(standing)})"


def evidence(standing: Standing, gain: Comparison) -> str:
    """Formats what decides on a gain: its interval with confidence and rows, or the exact test."""
    told = gain.evidence_in_words(standing.confidence, rows(standing), standing.bound(gain))
    return told + (": chance cannot be told" if gain.carried_by == 0 and not (gain.exact or gain.is_same) else "")


def span(standing: Standing, gain: Comparison) -> str:
    """Formats the interval of a gain for a table, or the p value if the exact test decides; empty without both."""
    ends, test = gain.shown(standing.bound(gain))
    told = "" if test is None else f"p = {test.p_value:.2g}"
    return told if ends is None else " to ".join(digits(end, "+") for end in ends)


class Line(NamedTuple):
    """Line of a table of a verdict: an adapter, the base or a limit, with one of its gains."""

    name: str
    value: str
    against: str = ""
    gain: str = ""
    span: str = ""
    verdict: str = ""


def lines(verdict: Verdict) -> Iterator[Line]:
    """Yields base, champion and candidates, the winner first, then the guards and the worst slice."""
    for name in (BASE, CHAMPION):
        if name in verdict.values:
            yield Line(name, f"{verdict.values[name]:.4f}")
    of_gains = {told: word.replace("_", " ") for told, word in OUTCOMES.items()}
    shown = [(own, own.name, of_gains) for own in verdict.candidates]
    shown += [(own, limit(own), {} if own.least is None else _OF_LIMITS) for own in verdict.shown_limits]
    for own, name, ends in shown:
        for each in own.gains:
            amount, end = digits(each.difference, "+"), ends.get(own.is_large_enough(each), "")
            yield Line(name, f"{own.value:.4f}", each.key, amount, span(own, each), end)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Returns the object for the JSON line and the decision record."""
    best, told = verdict.best, {}
    for kind in ("guards", "slices", "beside"):
        told[kind] = [_limit_json(each) for each in getattr(verdict, kind)]
    return {
        **{name: getattr(verdict, name) for name in ("winner", "losses", "values", "rows_with_copies", "warnings")},
        **{name: getattr(best, name) for name in ("confidence", "rows", "is_grouped")},
        "reasons": reasons(verdict),
        "rows_needed": verdict.rows_needed,
        "min_gain": verdict.rule.min_gain,
        "comparisons_counted": verdict.rule.comparisons,
        "objective": verdict.objective.model_dump(),
        "metrics": {name: each.metrics for name, each in verdict.scores.items()},
        "verdict": verdict.outcome,
        "passed": verdict.passed,
        "decided_by": None if verdict.decided_by is None else verdict.decided_by.name,
        "comparisons": [
            {"candidate": own.name, **gain, "passed": gain["holds"] is True, "verdict": OUTCOMES[gain["holds"]]}
            for own in verdict.candidates
            for gain in _gains_json(own)
        ],
        **told,
    }


def _gains_json(of: Standing) -> list[dict[str, Any]]:
    return [
        {
            "against": each.key, "gain": each.difference, "carried_by": each.carried_by,
            **each.evidence_json(of.bound(each)), "holds": of.is_large_enough(each),
        }
        for each in of.gains
    ]  # fmt: skip


def _limit_json(of: Standing) -> dict[str, Any]:
    fields = {name: getattr(of, name) for name in ("name", "value", "rows", "holds", "rows_needed", "confidence")}
    worse_by = None if of.least is None else abs(of.least)
    return {**fields, "worse_by": worse_by, "metric": of.objective.metric, "gains": _gains_json(of)}


def _needed(of: Standing) -> str:
    """Formats `rows_needed`: "about 120 more rows would tell"."""
    if (needed := of.rows_needed) is None:
        return "more rows like these would not tell"
    return f"about {needed} more {'group' if of.is_grouped else 'row'}{'' if needed == 1 else 's'} would tell"


def _only(verdict: Verdict) -> str:
    """Formats how few rows decide: "only 8 rows decide (12 with copies)"."""
    is_copied = verdict.rows_with_copies > verdict.best.rows and not verdict.best.is_grouped
    return f"only {rows(verdict.best)} decide{f' ({verdict.rows_with_copies} with copies)' if is_copied else ''}"


def _reason_of_limit(of: Standing, winner: str) -> str:
    """Says why a limit does not hold for the winner, or that the rows cannot tell."""
    which = min((each for each in of.gains if of.is_large_enough(each) is of.holds), key=lambda each: each.difference)
    by = f" by more than worse_by {-of.least:g}" if of.least else ""
    may_be, more = ("is", "") if of.holds is False else ("may be", f"; {_needed(of)}")
    if not by:
        more += "; a guard on this metric says with worse_by how much worse it may be"
    return f"{winner} {may_be} worse than the {which.key} on {limit(of)}{by}: {_amount(of, which)}{more}"


def _reason(of: Standing, gain: Comparison) -> str | None:
    """Says why a gain does not pass; None if the rows are too few for an interval."""
    name, least, is_open = of.name, of.least or 0.0, of.is_large_enough(gain) is None
    whether = f"whether {name} is better than the {gain.key} cannot be told"
    if not gain.is_told:
        return None if of.rows < LEAST_ROWS else f"{whether}: {gain.unknown}"
    if is_open and gain.difference > 0 and of.is_enough(gain):
        return f"{name}'s gain on the {gain.key} may be chance: {_amount(of, gain)}"
    if gain.difference > 0 and least:
        chance = ", which may be chance" if is_open else ""
        return f"{name} gains less than min_gain {least:g} on the {gain.key}{chance}: {_amount(of, gain)}"
    return f"{whether if is_open else f'{name} is not better than the {gain.key}'}: {_amount(of, gain)}"


def _amount(of: Standing, gain: Comparison) -> str:
    return f"gain {digits(gain.difference, '+')}, {evidence(of, gain)}"
