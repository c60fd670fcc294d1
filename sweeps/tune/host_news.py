"""What the driver learns of the hosts from the broker: while hosts start, and afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ray.exceptions import ActorUnavailableError

from cluster.broker_answers import News, NotReady, Ready
from cluster.errors import HostError, HostsDied
from cluster.hosts import PROCESS_LOST
from sweeps import timeouts
from sweeps.record.events import HostsChanged, HostsStarted
from sweeps.record.journal import Journal
from sweeps.report.status import silent
from sweeps.steering.stop import StopState
from sweeps.supply.target_modules import Targets
from sweeps.tune.actor_calls import RAY, Calls, OpenCall, Repeated, until_there
from trainables.contract import Evaluation, Failure
from trainables.engine_paths import EnginePath
from trainables.specs import TrialSpec

BROKER_DIES = (
    "the broker, which starts the hosts, has died, and no other was made within two minutes, or that one has "
    "died too: is there enough memory on this node? qsweep resume tries again"
)
LOST = "the broker is lost: another is made, and trials go on"
AWAY = "the broker is lost, or out of reach for a moment: when another is made, trials go on"
HostCount = int | Literal["auto"]


@dataclass(frozen=True)
class StartedHosts:
    """The hosts of a sweep, with what the driver knows of base and data once the hosts run."""

    ready: Ready
    broker: Any
    """Ray's handle of the broker."""
    targets: Targets
    """The target modules of each preset on the base."""
    hosts_at_start: HostCount
    """Number of hosts with which a broker begins, also a broker that Ray restarts."""
    lines_said: int
    """Number of the broker's lines that were shown while the hosts started."""


class StartingBroker:
    """Asks the broker while its hosts start, and shows the broker's lines meanwhile."""

    def __init__(self, broker: Any, stop: StopState, say: Callable[[str], None], calls: Calls = RAY) -> None:
        """Starts with no line shown; `say` shows a line."""
        self._broker, self._stop, self._say, self._calls = broker, stop, say, calls
        self._news = OpenCall(calls)
        self.lines_said = 0
        """Number of the broker's lines that were shown."""

    def ask(self, method: str, *arguments: object) -> Any:
        """Returns the broker's answer; asks again while Ray restarts a broker that died.

        Raises:
            HostError: no host can run.
            HostsDied: the broker died, and Ray did not restart it.
            KeyboardInterrupt: the sweep is to end, on request or by its budget.
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
        """Shows new lines of the broker and asks for more; never waits."""
        if self._news.is_answered():
            try:
                lines = self._news.answer().lines
            except PROCESS_LOST:
                lines = []  # `_answer` sees the loss of the broker too.
            self.lines_said += len(lines)
            for line in lines:
                self._say(line)
        if not self._news.is_open:
            self._news.ask(self._broker.news.remote(self.lines_said, 0.0))

    def _begin_anew(self) -> None:
        """Starts over after the loss of a broker: the next broker counts its lines from 0."""
        self.lines_said = 0
        self._news.forget()
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        self._stop.check()
        if self._stop.is_ending:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Heard:
    """The new lines in an answer of the broker."""

    news: Sequence[str]
    """Lines that were not shown yet."""
    is_back: bool = False
    """Whether the broker was away: requests sent meanwhile may be lost."""
    is_another: bool = False
    """Whether this is another broker, which knows no request that the lost broker got."""


class BrokerLines:
    """Tells which lines of the broker are new, and when to ask for more. Pure: folds answers and losses."""

    def __init__(self, said: int) -> None:
        """Starts with the number of lines that were shown while the hosts started."""
        self._said = said
        self._broker: str | None = None
        """Id of the broker that answered last; None before the first answer."""
        self._pause = 0.0
        """Seconds before the broker is asked again; 0 while the broker answers."""
        self._ask_at = -math.inf

    @property
    def is_away(self) -> bool:
        """Tells whether the broker was lost and has not answered since."""
        return self._pause > 0.0

    def question(self, now: float) -> tuple[int, float] | None:
        """Returns the first line to ask for, and the seconds that the broker may wait for it; None: ask later.

        Args:
            now: monotonic seconds.
        """
        if now < self._ask_at:
            return None
        # A broker that was away may be another broker: all its lines are needed.
        return (0, 0.0) if self.is_away else (self._said, timeouts.NEWS_SECONDS)

    def lost(self, error: Exception, now: float) -> str | None:
        """Notes that the broker does not answer. Returns the line to show, once for each loss."""
        line = None if self.is_away else AWAY if isinstance(error, ActorUnavailableError) else LOST
        self._pause = min(2 * self._pause or timeouts.FIRST_PAUSE_SECONDS, timeouts.LONGEST_PAUSE_SECONDS)
        self._ask_at = now + self._pause
        return line

    def heard(self, told: News) -> Heard:
        """Notes an answer of the broker and returns its new lines."""
        is_back, lines = self.is_away, told.lines
        is_another = is_back and told.broker != self._broker
        if is_back:
            self._said = 0 if is_another else self._said
            lines, self._pause = lines[self._said :], 0.0
        self._broker = told.broker
        self._said += len(lines)
        return Heard(lines, is_back, is_another)


class BaseEvaluation:
    """Evaluates the base without an adapter once, after the first report of a trial: no trial waits for a slot."""

    def __init__(
        self,
        broker: Any,
        take: Callable[[Evaluation | Failure], None],
        is_due: Callable[[], bool],
        calls: Calls = RAY,
        spec: TrialSpec | None = None,
    ) -> None:
        """Asks no host yet.

        Args:
            take: called once, with the answer.
            is_due: tells whether a trial has reported. The base waits for this report `timeouts.BASE_FIRST_SECONDS` at
                most, so that answers that cannot be scored end the sweep soon.
            spec: names the base where there are several. It is never asked for before `is_due`: no host may hold it.
        """
        self._take, self._is_due, self._calls, self._words = take, is_due, calls, () if spec is None else (spec,)
        self._broker = broker
        self._asked: Repeated | None = None
        self._ask_at = math.inf if self._words else calls.now() + timeouts.BASE_FIRST_SECONDS
        self.is_over = False
        """Whether the answer was passed on."""

    @property
    def is_wanted(self) -> bool:
        """Tells whether the answer is still to come, and is not of a base that no trial was on."""
        return not self.is_over and (not self._words or self._is_due())

    def look(self) -> None:
        """Asks a host once the evaluation is due, and passes the answer on if it is there. Never waits."""
        if self._asked is not None or self._is_due() or self._calls.now() >= self._ask_at:
            self.wait(0.0)

    def wait(self, seconds: float) -> None:
        """Asks a host now, unless one was asked; waits `seconds` for the answer and passes it on."""
        if self.is_over:
            return
        self._asked = self._asked or Repeated(partial(self._broker.evaluate_base.remote, *self._words), self._calls)
        answer = self._asked.answer(seconds)
        if answer is not None:
            self.is_over = True
            self._take(answer)


class HostBases:
    """Asks the broker for the slots of each base, and tells it which trials come, in a sweep that searches its base."""

    def __init__(
        self,
        broker: Any,
        refuse: Callable[[frozenset[str]], None],
        settle: Callable[[Mapping[str, EnginePath]], None],
        calls: Calls = RAY,
    ) -> None:
        """`refuse` takes the names of the bases that no host can hold, `settle` the paths of those that hosts held."""
        self._broker, self._refuse, self._settle, self._calls = broker, refuse, settle, calls

    def slots(self) -> Mapping[str, int]:
        """Returns base -> slots, see `Broker.slots_by_base`; empty while Ray restarts the broker."""
        try:
            slots, refused, paths = self._calls.answer(self._broker.slots_by_base.remote())
        except PROCESS_LOST:
            return {}
        self._refuse(refused)
        self._settle(paths)
        found: Mapping[str, int] = slots
        return found

    def expect(self, trial_key: str, spec: TrialSpec) -> None:
        """Tells that a trial is handed out: its process may need seconds to start and ask for a slot."""
        self._broker.expect.remote(trial_key, spec)


def hosts_started(answer: Ready, since: float, time: float) -> HostsStarted:
    """Returns the event of hosts that were requested at `since` and ready at `time`, in seconds since the epoch."""
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
    """Adds a change of the hosts to the journal, and warns once of each host that may hang."""
    known = journal.record.hosts
    if known is None:
        return
    before = {(host.node, host.pid): host for host in known.silent}
    # Each measurement gives a slightly different start of a host's silence: the first one is kept.
    now = now.model_copy(update={"silent": tuple(before.get((each.node, each.pid), each) for each in now.silent)})
    for host in now.silent:
        if (host.node, host.pid) not in before:
            say(f"warning: {silent(host, journal.record, now.time)}")
    if (now.hosts, now.slots, now.held, now.silent) != (known.hosts, known.slots, known.held, known.silent):
        journal.add(now)
