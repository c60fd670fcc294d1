"""What the driver asks of Ray for a trial's own process, and what it makes of the broker's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import sweep_events
from ray._private.ray_constants import MIN_RESOURCE_GRANULARITY
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.search.search_generator import SearchGenerator
from sweep_files import toy

from cluster.connect import ENVIRONMENT
from cluster.errors import HostError, HostsDied
from cluster.hosts import HostFacts, SlotLimits
from cluster.leases import NotReady, Ready
from sweeps.errors import ConfigError, StorageError
from sweeps.record.events import DataPrepared
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.limits import Reached
from sweeps.report.progress import Display
from sweeps.steering.stop import StopState
from sweeps.tune import driver
from sweeps.tune.driver import Driver
from sweeps.tune.host_news import StartNews
from sweeps.tune.trial_places import ON_HEAD
from trainables.contract import Evaluation, Summary

AT_ONCE = 10_000


def test_memory_and_not_its_number_of_places_limits_the_head() -> None:
    (share,) = ON_HEAD.required_resources.values()
    assert round(1 / share) == AT_ONCE  # Ray gives each node 1 of the resource that stands for it.
    assert share >= MIN_RESOURCE_GRANULARITY
    assert AT_ONCE * 0.123 > 1000  # GB; see docs/scale.md


def test_processes_start_together_however_many_slots_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    searcher = object.__new__(SearchGenerator)
    searcher.searcher = None
    assert _get_max_pending_trials(searcher) == AT_ONCE


@pytest.mark.parametrize(
    ("began_with", "is_refused"), [("1" * 16, False), ("2" * 16, True), (None, False)], ids=["same", "other", "unknown"]
)
def test_a_sweep_whose_rows_give_other_tokens_now_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began_with: str | None, is_refused: bool
) -> None:
    config, space = toy()
    summary = Summary(fingerprint="1" * 16, train_rows=4, eval_rows=2)
    ready = Ready(data=summary, hosts=(HostFacts(pid=1, node="", device="cpu", slots=1, estimated_bytes=None),))
    broker = MagicMock()
    broker.forecast.remote.return_value, broker.resolve.remote.return_value = None, ()
    broker.start.remote.return_value = ready
    monkeypatch.setattr(driver.broker, "create", lambda *_: broker)
    monkeypatch.setattr(Driver, "_answer", lambda _, answer: answer)
    journal = Journal(SweepFolder(tmp_path))
    if began_with is not None:
        journal.add(
            DataPrepared(time=1.0, summary=summary.model_dump(exclude={"warnings"}) | {"fingerprint": began_with})
        )
    began = Driver(config, SweepFolder(tmp_path), journal, StopState(), MagicMock(Display), clock=lambda: 2.0)
    limits = SlotLimits(slots=1, at_most=1, largest=())
    if not is_refused:
        assert began.start_hosts(limits, space) == ready
        return
    with pytest.raises(ConfigError, match=r"^data: its rows give other tokens .*1{16}, it was 2{16}"):
        began.start_hosts(limits, space)
    assert journal.record.data["fingerprint"] == began_with


def test_hosts_are_told_what_the_sweep_was_evaluated_on_before(tmp_path: Path) -> None:
    journal = Journal(SweepFolder(tmp_path))
    driving = Driver(toy()[0], SweepFolder(tmp_path), journal, StopState(), MagicMock(Display))
    assert driving._host_options().hardware_before == ""
    journal.add(sweep_events.base(4.5))
    assert driving._host_options().hardware_before == "cpu float32"


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Asks a broker to start, without Ray: it gives each answer in turn, and one that is an exception is raised."""
    config, _ = toy()

    def start(*answers: object) -> list[object]:
        given = iter(answers)
        driving = Driver(config, SweepFolder(tmp_path), MagicMock(Journal), StopState(), MagicMock(Display))
        driving._broker = MagicMock()
        driving._start_news = StartNews(driving._broker, driving.display.say)
        driving._broker.start.remote.side_effect = lambda: next(given)
        monkeypatch.setattr(driver.ray, "wait", lambda asked, timeout: (asked, []))
        monkeypatch.setattr(driver.ray, "get", got)
        monkeypatch.setattr(driver, "RETRY_SECONDS", 0.0)
        return [driving._ask("start"), *given]

    return start


def got(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_a_broker_that_is_lost_while_hosts_start_is_asked_again_once_it_is_there(starting):
    ready = Ready(data=Summary(fingerprint="1", train_rows=4, eval_rows=2), hosts=())
    assert starting(ActorDiedError(), ActorUnavailableError("it restarts", None), ready, "left") == [ready, "left"]


def test_a_broker_that_stays_away_ends_the_start_with_exit_code_1(starting, monkeypatch):
    monkeypatch.setattr(driver, "ANEW_SECONDS", 0.0)
    with pytest.raises(HostsDied, match="the broker, which starts the hosts, has died") as told:
        starting(ActorDiedError())
    assert told.value.exit_code == 1


@pytest.mark.parametrize(("is_mistake", "exit_code"), [(True, 2), (False, 1)])
def test_hosts_that_cannot_start_are_a_mistake_and_hosts_that_die_are_none(starting, is_mistake, exit_code):
    with pytest.raises(HostError, match="no host") as told:
        starting(NotReady(message="no host", is_mistake=is_mistake))
    assert told.value.exit_code == exit_code


class SlowStart:
    """A driver whose hosts start for as long as it asks, with a broker that is no Ray actor; it has its own clock."""

    def __init__(self, tmp_path: Path, monkeypatch, stop: StopState) -> None:
        self.now, self.lines, self.said, self.answer = 0.0, list[str](), list[str](), object()
        config, _ = toy()
        display = MagicMock(Display)
        display.say = self.said.append
        self.driving = Driver(config, SweepFolder(tmp_path), MagicMock(Journal), stop, display)
        broker = self.driving._broker = MagicMock()
        broker.start.remote = lambda: self.answer
        broker.news.remote = lambda known, wait_seconds: list(self.lines[known:])
        self.driving._start_news = StartNews(broker, display.say)
        self.each_look: Callable[[float], None] = lambda now: None
        monkeypatch.setattr(driver.ray, "wait", self._wait)
        monkeypatch.setattr(driver.ray, "get", got)
        monkeypatch.setattr(driver, "RETRY_SECONDS", 0.0)

    def _wait(self, asked: list[object], timeout: float) -> tuple[list[object], list[object]]:
        if asked != [self.answer]:
            return asked, []
        self.now += timeout
        assert self.now < 1000.0, "it waits without end"
        self.each_look(self.now)
        return [], asked


def test_a_start_that_goes_on_and_on_ends_when_the_budget_is_used_up(tmp_path, monkeypatch):
    stop = StopState()
    start = SlowStart(tmp_path, monkeypatch, stop)
    stop.limit = lambda: Reached("budget.wall_clock", "is used up") if start.now >= 100.0 else None
    with pytest.raises(KeyboardInterrupt):
        start.driving._ask("start")
    assert (start.now, stop.reason, stop.message) == (100.0, "budget", "budget.wall_clock is used up")


def test_hosts_that_die_while_they_start_are_told_of_at_once_and_only_once(tmp_path, monkeypatch):
    stop = StopState()
    start = SlowStart(tmp_path, monkeypatch, stop)
    seen = list[tuple[float, int]]()

    def look(now: float) -> None:
        seen.append((now, len(start.said)))
        if now in (10.0, 20.0):
            start.lines.append(f"a host died at {now:g}; another is made")
        if now == 30.0:
            stop.ask("interrupted", "interrupted")

    start.each_look = look
    with pytest.raises(KeyboardInterrupt):
        start.driving._ask("start")
    assert start.said == start.lines == ["a host died at 10; another is made", "a host died at 20; another is made"]
    assert next(now for now, said in seen if said == 1) <= 12.0
    assert start.driving._start_news.said == 2, "what tells of hosts later goes on from here"


def test_another_broker_tells_its_own_lines_of_the_start(tmp_path, monkeypatch):
    start = SlowStart(tmp_path, monkeypatch, stop := StopState())
    start.lines = ["one", "two"]

    def look(now: float) -> None:
        if now == 10.0:
            start.lines = ["three"]
            raise ActorDiedError
        if now == 20.0:
            stop.ask("interrupted", "interrupted")

    start.each_look = look
    with pytest.raises(KeyboardInterrupt):
        start.driving._ask("start")
    assert start.said == ["one", "two", "three"]


def test_an_event_log_that_takes_no_evaluation_of_the_base_ends_the_sweep_with_its_own_words(tmp_path: Path) -> None:
    journal, stop = MagicMock(Journal), StopState()
    journal.add.side_effect = StorageError("events.jsonl: cannot be written: No space left on device")
    driving = Driver(toy()[0], SweepFolder(tmp_path), journal, stop, MagicMock(Display))
    driving._base_evaluated(Evaluation(metrics={"eval_loss": 4.5}))
    assert (stop.reason, stop.message) == ("failed", "events.jsonl: cannot be written: No space left on device")


def test_a_trial_that_holds_a_slot_has_saved_nothing_by_that(tmp_path: Path) -> None:
    journal = Journal(SweepFolder(tmp_path))
    driving = Driver(toy()[0], SweepFolder(tmp_path), journal, StopState(), MagicMock(Display))
    before = driving._saved("a")
    journal.add(sweep_events.started("a"))
    assert driving._saved("a") == before, "else deaths of its process would count anew"
