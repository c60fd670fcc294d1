"""What the driver makes of the broker's answers while hosts start, and what is written down of hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_actors import NEVER, NONE, FakeCalls, actor
from ray.exceptions import ActorDiedError, ActorUnavailableError
from sweep_events import begun, hosts, started

from cluster.broker_answers import News, NotReady
from cluster.errors import HostError, HostsDied
from cluster.pace import Silent
from sweeps import timeouts
from sweeps.record.events import HostsChanged
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.limits import Reached
from sweeps.steering.stop import StopState
from sweeps.tune.host_news import BaseEvaluation, StartingBroker, tell_changes
from trainables.contract import Evaluation, Failure

HANGS = Silent(pid=7, node="10.0.0.1", trials=("aaa",), what="step", usual=2.0, since=100.0)


def test_a_host_that_may_hang_is_told_once_and_written_down_until_it_goes_on(tmp_path: Path) -> None:
    journal, said = Journal(SweepFolder(tmp_path)), list[str]()
    for event in (begun(), hosts(), started("aaa")):
        journal.add(event)

    def tell(time: float, *silent: Silent) -> int:
        tell_changes(HostsChanged(time=time, hosts=1, slots=2, held=1, silent=silent), journal, said.append)
        return journal.log.length

    assert tell(700.0) == tell(750.0), "nothing has changed"
    found = tell(800.0, HANGS)
    assert len(said) == 1
    assert said[0].startswith("warning: the host of t00 (process 7 on 10.0.0.1) may hang: for 11 min 40 s its step")
    assert tell(805.0, HANGS.model_copy(update={"since": 100.1, "trials": ()})) == found
    assert Journal(SweepFolder(tmp_path)).record.hosts.silent == (HANGS,)
    tell(900.0)
    assert journal.record.hosts.silent == ()
    tell(2000.0, HANGS.model_copy(update={"since": 1000.0}))
    assert len(said) == 2, "it hangs once more"
    journal.close()


class Start:
    """Hosts that start, with a broker that is no Ray actor."""

    def __init__(self, *answers: object) -> None:
        self.calls, self.stop, self.lines, self.said = FakeCalls(), StopState(), list[str](), list[str]()
        given = iter(answers)
        broker = actor(start=lambda: next(given, NEVER), news=lambda known, _seconds: News("b", self.lines[known:]))
        self.broker = StartingBroker(broker, self.stop, self.said.append, self.calls)

    def ask(self) -> Any:
        return self.broker.ask("start")


@pytest.mark.parametrize("error", [ActorDiedError(), ActorUnavailableError("the connection broke", None)])
def test_a_broker_that_dies_while_hosts_start_is_made_anew_and_asked_again(error):
    assert Start(error, error, "ready").ask() == "ready"


def test_a_broker_that_stays_away_ends_the_start_with_exit_code_1():
    start = Start(*[ActorDiedError()] * 1000)
    with pytest.raises(HostsDied, match="the broker, which starts the hosts, has died") as told:
        start.ask()
    assert (told.value.exit_code, start.calls.time) == (1, 120.0)


@pytest.mark.parametrize(("is_mistake", "exit_code"), [(True, 2), (False, 1)])
def test_hosts_that_cannot_start_are_a_mistake_and_hosts_that_die_are_none(is_mistake, exit_code):
    with pytest.raises(HostError, match="no host") as told:
        Start(NotReady(message="no host", is_mistake=is_mistake)).ask()
    assert told.value.exit_code == exit_code


def test_a_start_that_goes_on_and_on_ends_when_the_budget_is_used_up():
    start = Start()
    start.stop.limit = lambda: Reached("budget.wall_clock", "is used up") if start.calls.time >= 100.0 else None
    with pytest.raises(KeyboardInterrupt):
        start.ask()
    assert (start.calls.time, start.stop.message) == (100.0, "budget.wall_clock is used up")


def test_hosts_that_die_while_they_start_are_told_of_at_once_and_only_once():
    start = Start()
    seen: list[tuple[float, int]] = []

    def look() -> None:
        now = start.calls.time
        seen.append((now, len(start.said)))
        if now in (10.0, 20.0):
            start.lines.append(f"a host died at {now:g}; another is made")
        if now == 30.0:
            start.stop.ask("interrupted", "interrupted")

    start.calls.each_wait = look
    with pytest.raises(KeyboardInterrupt):
        start.ask()
    assert start.said == start.lines == ["a host died at 10; another is made", "a host died at 20; another is made"]
    assert next(now for now, said in seen if said == 1) <= 12.0
    assert start.broker.lines_said == 2, "what tells of hosts later goes on from here"


def test_the_evaluation_of_the_base_is_asked_for_again_until_a_host_is_there_and_told_once():
    calls, told = FakeCalls(), list[object]()
    answers: list[object] = [None, ActorDiedError(), Evaluation(metrics={"eval_loss": 4.5})]
    base = BaseEvaluation(actor(evaluate_base=lambda: answers.pop(0)), told.append, lambda: True, calls)
    for _ in range(40):
        base.look()
        calls.time += 1.0
    assert told == [Evaluation(metrics={"eval_loss": 4.5})]
    assert base.is_over


@pytest.mark.parametrize("reports", [True, False])
def test_the_base_lets_the_first_report_of_a_trial_go_first_but_not_for_long(reports):
    calls, told, asked, seen = FakeCalls(), list[object](), list[float](), list[bool]()

    def evaluate_base() -> Evaluation:
        asked.append(calls.time)
        return Evaluation(metrics={"eval_loss": 4.5})

    begun = calls.time
    base = BaseEvaluation(actor(evaluate_base=evaluate_base), told.append, lambda: bool(seen), calls)
    for second in range(90):
        base.look()
        calls.time += 1.0
        seen += [True] if reports and second == 20 else []
    assert [at - begun for at in asked] == [21.0 if reports else timeouts.BASE_FIRST_SECONDS]
    assert len(told) == 1


def test_the_end_of_a_sweep_asks_for_the_base_at_once():
    told = list[object]()
    base = BaseEvaluation(
        actor(evaluate_base=lambda: Evaluation(metrics={"eval_loss": 4.5})), told.append, lambda: False, FakeCalls()
    )
    base.look()
    assert not told
    for _ in range(2):
        base.wait(0.5)
    assert told == [Evaluation(metrics={"eval_loss": 4.5})]


def test_a_base_that_no_host_evaluates_is_waited_for_while_trials_go_on_and_for_ten_minutes_at_the_end():
    calls, told = FakeCalls(), list[object]()
    base = BaseEvaluation(actor(evaluate_base=lambda: NONE), told.append, lambda: True, calls)
    while calls.time < 2000.0:
        base.look()
        calls.time += 5.0
    assert not told, "hosts may come back for the trials"
    ended = calls.time
    while not base.is_over and calls.time < ended + 2000.0:
        base.wait(0.5)
    assert told == [Failure(kind="failed", message="no host was there for 10 minutes")]
    assert calls.time == pytest.approx(ended + 600.0, abs=20.0)
