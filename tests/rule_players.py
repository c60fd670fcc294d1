"""Plays a rule on several slots; the order in which trials report is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sweeps.schedulers import Decision, Ended, Idle, Reported, Resume, Rule, RuleEvent, Started


@dataclass
class Play:
    """What happened: the events in order, and each piece of work that was begun."""

    events: list[RuleEvent] = field(default_factory=list)
    work: list[tuple[str, int]] = field(default_factory=list)
    """(trial, the point that it trains to)."""
    decisions: list[Decision] = field(default_factory=list)

    @property
    def reports(self) -> list[Reported]:
        return [event for event in self.events if isinstance(event, Reported)]


def after(rule: Rule, events: Iterable[RuleEvent]) -> Rule:
    """The rule once it has taken all these events."""
    for event in events:
        rule.take(event)
    return rule


def play(
    rule: Rule,
    value: Callable[[str, int], float | None],
    trials: int,
    slots: int,
    pick: Callable[[Sequence[str]], str],
    protects_first: bool = False,
) -> Play:
    """Runs trials, whose names are their numbers, to the end.

    Args:
        value: of a trial at a point; None: it fails on the way there.
        pick: which of the trials in slots comes to its point next.
    """
    done, begun = Play(), 0
    busy: list[str] = []

    def tell(event: RuleEvent) -> Decision:
        done.events.append(event)
        return rule.take(event)

    while True:
        while len(busy) < slots:
            work = rule.next(is_exhausted=begun == trials)
            if work is Idle.NEW:
                name, begun = str(begun), begun + 1
            elif isinstance(work, Resume):
                name = work.trial
            else:
                assert bool(busy) == (work is Idle.WAIT)
                break
            assert name not in busy
            tell(Started(name, is_protected=protects_first and name == "0"))
            done.work.append((name, rule.next_point(name) or 0))
            busy.append(name)
        if not busy:
            return done
        name = pick(busy)
        point = rule.next_point(name)
        assert point is not None
        found = value(name, point)
        decision = tell(Ended(name) if found is None else Reported(name, point, found))
        done.decisions.append(decision)
        if decision is not Decision.GO_ON:
            busy.remove(name)
        else:
            done.work.append((name, rule.next_point(name) or 0))
