"""What a sweep's driver refuses, writes down and asks of Ray, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import played_sweeps
import pytest
import sweep_events
from fake_actors import FakeCalls, actor
from ray._private.ray_constants import MIN_RESOURCE_GRANULARITY
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator
from sweep_files import toy

from cluster.broker_answers import Ready
from cluster.connect import ENVIRONMENT
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from sweeps.errors import ConfigError
from sweeps.record import samples
from sweeps.record.events import DataPrepared
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.report.live_table import Display
from sweeps.steering.stop import StopState
from sweeps.tune.driver import Driver, write_base
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_stub import ON_HEAD
from trainables.contract import AnsweredRow, Evaluation, Failure, Summary
from trainables.engine_paths import EnginePath, Settled
from trainables.errors import GradingError
from trainables.specs import QuantizationSpec, TrialSpec

PROCESSES = 10_000
SUMMARY = Summary(fingerprint="1" * 16, train_rows=4, eval_rows=2)
READY = Ready(data=SUMMARY, hosts=(HostFacts(pid=1, node="", device="cpu", slots=1, estimated_bytes=None),))
LIMITS = SlotLimits(slots=1, at_most=1, largest=())


def test_memory_and_not_its_number_of_places_limits_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    (share,) = ON_HEAD.required_resources.values()
    assert round(1 / share) == PROCESSES  # Ray gives each node 1 of the resource that stands for it.
    assert share >= MIN_RESOURCE_GRANULARITY
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    # Processes start together, however many slots have joined.
    assert _get_max_pending_trials(SearchGenerator(Searcher())) == PROCESSES


class Starting:
    """A driver whose hosts are there at once, and what its broker was asked for."""

    def __init__(self, folder: SweepFolder) -> None:
        config, self.space = toy()
        self.journal = Journal(folder)
        self.options: list[HostOptions] = []
        self.trials = SweepTrials(config, self.journal, folder, StopState(), lambda: 2.0)
        display = create_autospec(Display, instance=True)
        self.bases: list[TrialSpec] = []
        self.driver = Driver(self.trials, display, create_broker=self._create, calls=FakeCalls())

    def _create(self, base: TrialSpec, _limits: SlotLimits, options: HostOptions, _run: Any) -> Any:
        self.options.append(options)
        self.bases.append(base)
        return actor(outlook=lambda: None, resolve=lambda _values: (), start=lambda: READY)

    def start(self) -> Ready:
        return self.driver.start_hosts(LIMITS, self.space).ready


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Starting]:
    made = Starting(SweepFolder(tmp_path))
    yield made
    made.journal.close()


@pytest.mark.parametrize("began_with", ["1" * 16, None], ids=["same", "unknown"])
def test_a_sweep_whose_rows_give_the_same_tokens_goes_on(starting: Starting, began_with: str | None) -> None:
    if began_with is not None:
        starting.journal.add(prepared(began_with))
    assert starting.start() == READY


def test_a_sweep_whose_rows_give_other_tokens_now_is_refused(starting: Starting) -> None:
    starting.journal.add(prepared("2" * 16))
    with pytest.raises(ConfigError, match=r"^data: its rows give other tokens .*1{16}, it was 2{16}"):
        starting.start()
    assert starting.journal.record.data["fingerprint"] == "2" * 16


def prepared(fingerprint: str) -> DataPrepared:
    summary = SUMMARY.model_dump(exclude={"warnings"}) | {"fingerprint": fingerprint}
    return DataPrepared(time=1.0, summary=summary)


def test_hosts_are_told_what_the_sweep_was_evaluated_on_before(starting: Starting) -> None:
    starting.start()
    starting.journal.add(sweep_events.base(4.5))
    starting.start()
    assert [options.hardware_before for options in starting.options] == ["", "cpu float32"]


def test_hosts_are_told_what_the_first_base_was_evaluated_on_and_not_another_one(starting: Starting) -> None:
    first = TrialSpec(trainable="toy")
    other = TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme="none"))
    for spec, hardware in ((other, "cpu bfloat16"), (first, "cpu float32")):
        starting.journal.add(sweep_events.base(4.5).model_copy(update={"base": spec.base_name, "hardware": hardware}))
    starting.start()
    assert starting.options[0].hardware_before == "cpu float32"


def test_a_sweep_goes_on_with_the_way_to_compute_passes_that_it_began_with(starting: Starting) -> None:
    starting.start()
    first = EnginePath(engine="grouped", residency="4bit")
    for path in (first, EnginePath(engine="flat", residency="4bit")):
        starting.journal.add(sweep_events.hosts().model_copy(update={"settled": Settled(path=path)}))
    starting.start()
    assert [base.training.engine for base in starting.bases] == ["auto", "grouped"]
    assert starting.bases[1] == first.given_to(starting.bases[0])


def test_a_folder_that_takes_no_evaluation_of_the_base_ends_the_sweep_with_its_own_words(starting, tmp_path):
    said, trials, stop = list[str](), starting.trials, starting.trials.stop
    write_base(trials, said.append, Failure(kind="failed", message="no memory"))
    assert (said, stop.reason) == (["the base without an adapter could not be evaluated: no memory"], None)
    assert not (tmp_path / "base_samples.jsonl").exists()
    (tmp_path / "base_eval_rows.json").mkdir()
    write_base(trials, said.append, Evaluation(metrics={"eval_loss": 4.5}))
    assert stop.reason == "failed"
    assert "cannot be written" in stop.message


@pytest.mark.parametrize(
    ("metrics", "unscored", "why"),
    [
        ({"exact_match": 0.5}, {"mine": "mine, evaluation row, line 4: KeyError: 'a'"}, "mine, evaluation row, line 4"),
        ({"mine_a": 1.0}, {}, "exact_match is the objective, and they give eval_loss, mine_a only"),
    ],
)
def test_a_base_whose_answers_cannot_be_scored_ends_the_sweep(starting: Starting, metrics, unscored, why):
    starting.trials.config = played_sweeps.scored(starting.trials.config, "last")
    evaluated = Evaluation(metrics={"eval_loss": 4.5, **metrics}, unscored=unscored)
    with pytest.raises(GradingError, match=rf"^evaluation\.metrics: the answers of the base cannot be scored: {why}"):
        write_base(starting.trials, print, evaluated)
    assert starting.journal.record.base is None


def test_what_the_base_answers_lies_beside_what_it_evaluates_to(starting: Starting, tmp_path: Path) -> None:
    answered = AnsweredRow(row=0, prompt="a", expected="b", answer="c", is_ended=False, scores={"exact_match": 0.0})
    write_base(starting.trials, print, Evaluation(metrics={"eval_loss": 4.5, "exact_match": 0.0}, answers=(answered,)))
    assert samples.read_samples(tmp_path / "base_samples.jsonl") == (answered,)
    base = starting.journal.record.base
    assert base is not None and base.metrics == {"eval_loss": 4.5, "exact_match": 0.0}
