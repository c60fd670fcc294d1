"""A sweep's hosts, as its driver hears of them from the broker: while they start, and from then on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.exceptions import ActorUnavailableError

from cluster.errors import HostError, HostsDied
from cluster.hosts import PROCESS_LOST
from cluster.leases import News, NotReady, Ready
from sweeps import timeouts
from sweeps.record.events import HostsChanged, HostsStarted
from sweeps.record.journal import Journal
from sweeps.report.status import silent
from sweeps.steering.stop import StopState
from sweeps.supply.target_modules import Targets
from sweeps.tune.actor_calls import RAY, Calls, Question, Repeated, until_there
from trainables.contract import Evaluation, Failure

BROKER_DIES = (
    "the broker, which starts the hosts, has died, and no other was made within two minutes, or that one has "
    "died too: is there enough memory on this node? qsweep resume tries again"
)
LOST = "the broker is lost: another is made, and trials lease again"
AWAY = "the broker is lost, or out of reach for a moment: when another is made, trials lease again"
HostCount = int | Literal["auto"]


@dataclass(frozen=True)
class StartedHosts:
    """A sweep's hosts, and what is known of the base and the data once they run."""

    ready: Ready
    broker: Any
    """Ray's handle of the actor that owns the hosts."""
    targets: Targets
    """What target modules mean on the base."""
    hosts_at_start: HostCount
    """How many hosts a broker begins with, also one that Ray makes anew."""
    lines_said: int
    """So many of the broker's lines were said while the hosts started."""


class StartingBroker:
    """The broker while its hosts start. Whatever is asked, its lines are said meanwhile."""

    def __init__(self, broker: Any, stop: StopState, say: Callable[[str], None], calls: Calls = RAY) -> None:
        """Nothing is said yet; `say` takes one line."""
        self._broker, self._stop, self._say, self._calls = broker, stop, say, calls
        self._news = Question(calls)
        self.lines_said = 0
        """So many of the broker's lines were said."""

    def ask(self, method: str, *arguments: object) -> Any:
        """The broker's answer; while Ray makes a broker that died anew, asks again.

        Raises:
            HostError: no host can run.
            HostsDied: the broker died, and there is no other.
            KeyboardInterrupt: the sweep is to end meanwhile, also by its budget.
        """

        def answer() -> Any:
            return self._answer(getattr(self._broker, method).remote(*arguments))

        try:
            return until_there(answer, self._begin_anew, self._calls)
        except PROCESS_LOST as error:
            raise HostsDied(BROKER_DIES) from error

    def _answer(self, asked: Any) -> Any:
        while not self._calls.is_answered(asked, timeouts.START_LOOK_SECONDS):
            self._end_if_asked()
            self._say_news()
        answer = self._calls.answer(asked)
        if isinstance(answer, NotReady):
            raise (HostError if answer.is_mistake else HostsDied)(answer.message)
        return answer

    def _say_news(self) -> None:
        """Says what has come since the last look, and asks for more; never waits."""
        if self._news.is_answered():
            try:
                lines = self._news.answer().lines
            except PROCESS_LOST:
                lines = []  # Whoever waits for the broker's answer sees the loss too.
            self.lines_said += len(lines)
            for line in lines:
                self._say(line)
        if not self._news.is_open:
            self._news.ask(self._broker.news.remote(self.lines_said, 0.0))

    def _begin_anew(self) -> None:
        """The broker was lost: another broker counts its lines from the beginning."""
        self.lines_said = 0
        self._news.forget()
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self._stop.check() is not None:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Heard:
    """What a broker's lines mean to who has heard earlier ones."""

    news: Sequence[str]
    """The lines that were not said yet."""
    is_back: bool = False
    """The broker was away: what it was told meanwhile may have reached nobody."""
    is_another: bool = False
    """It is another broker, which knows nothing of what the one before was told."""


class BrokerLines:
    """Which of the broker's lines are news, and when to ask for more: a fold over its answers and losses. Pure."""

    def __init__(self, said: int) -> None:
        """So many lines were said while the hosts started."""
        self._said = said
        self._broker: str | None = None
        """Whose lines those were; None until it answers."""
        self._pause = 0.0
        """Pause before the broker is asked again; 0 while it is there."""
        self._ask_at = -math.inf

    @property
    def is_away(self) -> bool:
        """Whether the broker was lost and has not answered since."""
        return self._pause > 0.0

    def question(self, now: float) -> tuple[int, float] | None:
        """The first line to ask for now, and how long the broker may wait for it; None: ask later.

        Args:
            now: monotonic seconds.
        """
        if now < self._ask_at:
            return None
        # All lines of one that was away: it may be another broker.
        return (0, 0.0) if self.is_away else (self._said, timeouts.NEWS_SECONDS)

    def lost(self, error: Exception, now: float) -> str | None:
        """The broker does not answer. What to say of it, once: a cluster that is gone makes no other for hours."""
        line = None if self.is_away else AWAY if isinstance(error, ActorUnavailableError) else LOST
        self._pause = min(2 * self._pause or timeouts.FIRST_PAUSE_SECONDS, timeouts.LONGEST_PAUSE_SECONDS)
        self._ask_at = now + self._pause
        return line

    def heard(self, told: News) -> Heard:
        """The broker has answered."""
        is_back, lines = self.is_away, told.lines
        is_another = is_back and told.broker != self._broker
        if is_back:
            self._said = 0 if is_another else self._said
            lines, self._pause = lines[self._said :], 0.0
        self._broker = told.broker
        self._said += len(lines)
        return Heard(lines, is_back, is_another)


class BaseEvaluation:
    """Where a sweep starts from: the base without an adapter, evaluated once, before the first trial's first step."""

    def __init__(self, broker: Any, take: Callable[[Evaluation | Failure], None], calls: Calls = RAY) -> None:
        """Asks: what is asked of a host before its trials open is done first. `take` is called once."""
        self._asked: Repeated | None = Repeated(broker.evaluate_base.remote, calls)
        self._take = take

    def look(self, wait_seconds: float = 0.0) -> None:
        """Passes the answer on once it is there; waits for the answer as long as is said."""
        answer = None if self._asked is None else self._asked.answer(wait_seconds)
        if answer is not None:
            self._asked = None
            self._take(answer)


def hosts_started(answer: Ready, since: float, time: float) -> HostsStarted:
    """The event for hosts that were asked for at `since` and are ready at `time`, in seconds since the epoch."""
    first = answer.hosts[0]
    return HostsStarted(
        time=time,
        since=since,
        hosts=len(answer.hosts),
        slots=answer.slots,
        held=max(answer.held, len(answer.hosts)),
        held_seconds=answer.held_seconds,
        device=first.device,
        gpus_per_host=max(1, len(first.gpu_ids)),
        engine=first.engine,
        settled=first.settled,
    )


def tell_changes(now: HostsChanged, journal: Journal, say: Callable[[str], None]) -> None:
    """Adds what has changed to the journal, and says of each host that may hang, once."""
    known = journal.record.hosts
    if known is None:
        return
    before = {(host.node, host.pid): host for host in known.silent}
    # As it was found first: since when it is silent is measured anew each time, and comes out a little different.
    now = now.model_copy(update={"silent": tuple(before.get((each.node, each.pid), each) for each in now.silent)})
    for host in now.silent:
        if (host.node, host.pid) not in before:
            say(f"warning: {silent(host, journal.record, now.time)}")
    if (now.hosts, now.slots, now.held, now.silent) != (known.hosts, known.slots, known.held, known.silent):
        journal.add(now)
