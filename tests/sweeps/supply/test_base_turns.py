"""Sweeps over several bases on a virtual clock: the order of work and the placement of hosts, with real rules."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import placement
from cluster.placement import Held
from sweeps.schedulers import Decision, Idle, Reported, Resume, Started
from sweeps.schedulers.asha import Promote
from sweeps.supply.base_turns import TrialWork, choose

POINTS = (3, 9, 27)


@dataclass
class Machine:
    """A host of the simulation."""

    base: str
    slots: int
    ready_at: float = 0.0
    changes: int = 0
    leases: dict[str, float] = field(default_factory=dict)
    """Trial -> when it comes to its next report point."""
    busy: float = 0.0


class Played:
    """A sweep that was played to its end. Trials are named by the values that they report."""

    def __init__(
        self, bases: Mapping[str, str], costs: Mapping[str, float], slots: list[int], load: float, protects_first: bool
    ) -> None:
        """Begins at time 0. `bases`: trial -> its base; `costs`: base -> seconds of a step; `load`: seconds."""
        self.bases, self.costs, self.load, self.seconds = bases, costs, load, 0.0
        self.rule = Promote(POINTS, 3)
        self.rule.parks_protected = True
        self.protected = next(iter(bases)) if protects_first else None
        self.fresh, self.waiting, self.live = list(bases), dict[str, str](), dict[str, str]()
        self.trained: dict[str, list[tuple[str, int, int]]] = {name: [] for name in bases}
        """Trial -> (base of the host, from, to) of each leg."""
        self.machines = [Machine("", room, load) for room in slots]
        for machine in self.machines:
            machine.base = self.of_new()
        self.queue: list[tuple[float, int, str]] = []
        self.order = count()
        self.at(load, "")

    def at(self, time: float, what: str) -> None:
        heapq.heappush(self.queue, (time, next(self.order), what))

    def of_new(self, gone: Machine | None = None) -> str:
        held = Counter(machine.base for machine in self.machines if machine.base and machine is not gone)
        return placement.of_new(held, Counter(self.waiting.values()), list(self.costs))

    def play(self, deaths: list[tuple[float, int]]) -> Played:
        """Plays to the end; `deaths`: (time, number of the machine)."""
        for time, who in deaths:
            self.at(time, f"!{who}")
        while self.queue:
            now, _, what = heapq.heappop(self.queue)
            if what.startswith("!"):
                if self.live or self.fresh:
                    self.seconds = now
                    self.dies(self.machines[int(what[1:])])
            elif what:
                self.reports(what, now)
            else:
                self.seconds = now
            self.hand_out()
            self.place()
        assert not self.live, f"trials wait for ever: {self.live}"
        assert not self.fresh
        return self

    def work(self, name: str) -> TrialWork:
        return TrialWork(name, self.bases[name], self.trained[name][-1][2] if self.trained[name] else 0)

    def steps(self, name: str) -> tuple[int, int]:
        before = self.work(name).resource
        return before, next(point for point in POINTS if point > before)

    def reports(self, name: str, now: float) -> None:
        machine = next((each for each in self.machines if each.leases.get(name) == now), None)
        if machine is None:
            return  # its host died
        self.seconds = now
        before, point = self.steps(name)
        machine.busy += self.costs[machine.base] * (point - before)
        self.trained[name].append((machine.base, before, point))
        del machine.leases[name], self.live[name]
        assert self.rule.take(Reported(name, point, float(name))) is not Decision.GO_ON

    def dies(self, machine: Machine) -> None:
        self.waiting |= {name: self.live[name] for name in machine.leases}
        machine.leases, machine.ready_at = {}, self.seconds + self.load
        machine.base = self.of_new(gone=machine)
        self.at(machine.ready_at, "")

    def hand_out(self) -> None:
        while True:
            there = Counter[str]()
            for machine in self.machines:
                there[machine.base] += machine.slots
            due = [self.work(name) for name in (*self.fresh, *self.rule.resumable())]
            last = self.rule.next(is_exhausted=True)
            if not due and isinstance(last, Resume):
                due = [self.work(last.trial)]
            chosen = choose(due, [self.work(name) for name in self.live], there)
            if chosen is None:
                return
            if chosen.trial in self.fresh:
                self.fresh.remove(chosen.trial)
            self.rule.take(Started(chosen.trial, is_protected=chosen.trial == self.protected))
            self.waiting[chosen.trial] = self.live[chosen.trial] = chosen.base

    def place(self) -> None:
        ready = {str(at): each for at, each in enumerate(self.machines) if each.ready_at <= self.seconds}
        for name, base in list(self.waiting.items()):
            free = [each for each in ready.values() if each.base == base and len(each.leases) < each.slots]
            if free:
                before, point = self.steps(name)
                arrives = self.seconds + self.costs[base] * (point - before)
                min(free, key=lambda each: len(each.leases)).leases[name] = arrives
                self.at(arrives, name)
                del self.waiting[name]
        held = {at: Held(each.base, each.slots - len(each.leases), not each.leases) for at, each in ready.items()}
        starting = Counter[str]()
        for machine in self.machines:
            starting[machine.base] += machine.slots if machine.ready_at > self.seconds else 0
        for at, base in placement.changes(held, starting, Counter(self.waiting.values())).items():
            machine = self.machines[int(at)]
            machine.base, machine.ready_at, machine.changes = base, self.seconds + self.load, machine.changes + 1
            self.at(machine.ready_at, "")


SWEEPS = st.fixed_dictionaries(
    {
        "bases": st.lists(st.integers(0, 4), min_size=1, max_size=40),
        "costs": st.lists(st.floats(0.1, 10.0), min_size=5, max_size=5),
        "slots": st.lists(st.integers(1, 8), min_size=1, max_size=64),
        "load": st.floats(0.0, 50.0),
        "protects_first": st.booleans(),
    }
)


def played(drawn: dict, deaths: list[tuple[float, int]] | None = None) -> Played:
    names = [f"base{place}" for place in drawn["bases"]]
    costs = {f"base{place}": drawn["costs"][place] for place in sorted(set(drawn["bases"]))}
    order = [(7 * place) % len(names) for place in range(len(names))]  # values in no order of arrival
    bases = {f"{1 + value + place / 1000:.3f}": names[place] for place, value in enumerate(order)}
    return Played(bases, costs, drawn["slots"], drawn["load"], drawn["protects_first"]).play(deaths or [])


@settings(max_examples=300, deadline=None)
@given(SWEEPS)
def test_hosts_seldom_change_their_base_and_every_trial_trains_on_its_own(drawn):
    found = played(drawn)
    bases = len(set(drawn["bases"]))
    for machine in found.machines:
        assert machine.changes <= bases * len(POINTS)
    if bases == 1:
        assert not any(machine.changes for machine in found.machines)
    for legs in found.trained.values():
        assert legs, "every trial came to the first rung"
        assert len({base for base, _, _ in legs}) == 1
        assert all(end == start for (_, _, end), (_, start, _) in pairwise(legs))


@settings(max_examples=200, deadline=None)
@given(SWEEPS, st.lists(st.tuples(st.floats(0.0, 300.0), st.integers(0, 63)), max_size=12))
def test_hosts_that_die_starve_no_base(drawn, deaths):
    found = played(drawn, [(at, who % len(drawn["slots"])) for at, who in deaths])
    assert all(legs for legs in found.trained.values())
    assert found.rule.next(is_exhausted=True) is Idle.OVER


@settings(max_examples=200, deadline=None)
@given(SWEEPS)
def test_hosts_idle_only_while_a_base_is_loaded_and_at_the_end_of_a_base_on_a_rung(drawn):
    """The lower bound is the work shared out evenly. Beyond it, a visit to a base on a rung may load and end ragged."""
    found = played(drawn)
    visits = (len(set(drawn["bases"])) + 1) * len(POINTS)
    leg = max(drawn["costs"]) * max(end - start for start, end in pairwise((0, *POINTS)))
    work = sum(machine.busy for machine in found.machines)
    assert found.seconds <= work / sum(drawn["slots"]) + visits * (drawn["load"] + leg) + 1e-6


def test_a_free_slot_stays_with_its_base_and_then_takes_the_lowest_rung_with_the_most_work():
    due = [TrialWork("b1", "B", 0), TrialWork("c1", "C", 0), TrialWork("c2", "C", 0), TrialWork("a1", "A", 3)]
    assert choose([TrialWork("a2", "A", 0), *due], [], {"A": 1}) == TrialWork("a2", "A", 0)
    assert choose(due, [], {"A": 1}) == TrialWork("c1", "C", 0), "A's second rung waits for the first of B and C"
    assert choose(due, [TrialWork("a3", "A", 0)], {"A": 1}) is None, "every slot has its trial"
    assert choose([TrialWork("a1", "A", 3)], [TrialWork("b1", "B", 0)], {"A": 1, "B": 1}) is None
    assert choose([TrialWork("a1", "A", 3)], [TrialWork("a3", "A", 0)], {"A": 2}) == TrialWork("a1", "A", 3)
    assert choose([], [], {"A": 1}) is None
