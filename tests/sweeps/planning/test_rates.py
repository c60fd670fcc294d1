"""Rates: what a log says of its hosts, which measurement applies to a plan, and what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measured_rates
import pytest
from sweep_files import toy

from sweeps.config.model import SweepConfig
from sweeps.planning import measuring, rates
from sweeps.planning.rates import Load, Range, Rate, RateKey, Remembered, Speed, rate_key, read_rates, remember, speed
from sweeps.record.events import (
    DataPrepared,
    EvaluatedPart,
    Event,
    HostsStarted,
    SweepEnded,
    SweepStarted,
    TrialReported,
    TrialScored,
)
from trainables.contract import RowShape, StepRecord
from trainables.specs import EvaluationSpec

KEY = RateKey(trainable="qlora", model="hub/model", quantization="nf4 auto", device="NVIDIA H100 80GB HBM3")


def rate(**fields: Any) -> Rate:
    """50 rows of 25 tokens, evaluated in 10 s; two trials take a step of 100 tokens in 4 s."""
    given: dict[str, Any] = {
        "tokens_per_step": 100.0, "slots": 2.0, "step_seconds": 4.0, "evaluation_seconds": 10.0, "evaluation_rows": 50,
        "row_tokens": 25.0, "trial_seconds": 3.0, "steps": 30,
    }  # fmt: skip
    return measured_rates.rate(**{"key": KEY, **given, **fields})


def load(tokens: float = 100.0, slots: int = 2, rows: int = 50, row_tokens: float = 25.0) -> Load:
    return Load(tokens, slots, rows, row_tokens)


def speed_of(seen: list[Rate], asked: Load | None = None) -> Speed:
    """The speed under a load, which one of the rates must tell."""
    found = speed(seen, KEY, asked or load())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("device", "asked", "is_it"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA H100 80GB HBM3", "h100 80gb", True),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", True),  # words that do not follow each other
        ("NVIDIA A100-PCIE-40GB", "A100 80GB", False),
        ("NVIDIA A10G", "A10", False),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz, 64 threads", "Intel(R) Xeon(R) CPU @ 2.20GHz, 2 threads", False),
        # A host of several GPUs has rates of its own.
        ("2x NVIDIA H100 80GB HBM3", "2x H100", True),
        ("2x NVIDIA H100 80GB HBM3", "H100", False),
        ("NVIDIA H100 80GB HBM3", "2x H100", False),
    ],
)
def test_a_device_is_known_by_whole_words_of_its_name(device: str, asked: str, is_it: bool) -> None:
    assert rates.is_named(device, asked) is is_it
    seen = rate(key=KEY.model_copy(update={"device": device}))
    assert (speed([seen], KEY.model_copy(update={"device": asked}), load()) is not None) is is_it


def test_a_step_that_is_shared_costs_each_trial_its_part() -> None:
    found = speed_of([rate()])
    assert (found.step_seconds, found.evaluation_seconds) == (2.0, 10.0)
    assert (found.start_seconds, found.trial_seconds) == (Range(20.0, 10.0, 40.0), 3.0)
    # Time follows tokens and evaluation rows.
    found = speed_of([rate()], load(tokens=50.0, slots=4, rows=100, row_tokens=50.0))
    assert (found.step_seconds, found.evaluation_seconds) == (1.0, 40.0)


def test_a_time_may_be_half_or_twice_the_expected_one() -> None:
    # 10 s of work, 2 trials of 3 s, and 20 s to start.
    assert speed_of([rate()]).seconds(10.0, 2.0) == Range(36.0, 18.0, 72.0)


def test_the_closest_measurement_counts_and_of_equal_ones_the_latest() -> None:
    seen = [rate(step_seconds=1.0, time=1.0), rate(step_seconds=2.0, time=2.0), rate(slots=8.0, time=3.0)]
    assert speed_of(seen).step_seconds == 1.0


def test_a_sweep_whose_trials_waited_for_one_another_is_measured_for_its_like() -> None:
    """Under promotion fewer trials share a step than a host has slots."""
    alike = rate(slots=1.3, host_slots=4.0, step_seconds=1.3)
    further = rate(slots=3.0, host_slots=5.0, step_seconds=9.0)
    assert speed_of([alike, further], load(slots=4)).step_seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "other"), ("quantization", "none auto"), ("device", "NVIDIA A100"), ("trainable", "x")],
)
def test_another_base_precision_or_device_is_another_rate(field: str, value: str) -> None:
    assert speed([rate()], KEY.model_copy(update={field: value}), load()) is None


def test_overheads_of_a_calibration_are_those_of_loading_and_of_ray() -> None:
    calibrated = rate(is_calibration=True, start_seconds=5.0, trial_seconds=0.0, time=9.0)
    alone, beside = speed_of([calibrated]), speed_of([calibrated, rate(time=1.0)])
    assert (alone.start_seconds.expected, alone.trial_seconds) == (5.0 + rates.RAY_SECONDS, rates.TRIAL_SECONDS)
    assert (beside.start_seconds.expected, beside.trial_seconds) == (20.0, 3.0)


def test_a_new_rate_replaces_that_of_its_kind_and_the_oldest_go() -> None:
    left = rates.with_rate([rate(time=1.0), rate(slots=8.0, time=2.0)], rate(time=3.0, steps=99))
    assert [(found.time, found.steps) for found in left] == [(2.0, 30), (3.0, 99)]
    assert [found.time for found in rates.with_rate(left, rate(slots=4.0, time=4.0), most=2)] == [3.0, 4.0]
    alike = [rate(slots=1.3, host_slots=4.0, time=1.0), rate(slots=3.6, host_slots=4.0, time=2.0)]
    assert [found.time for found in rates.with_rate(alike[:1], alike[1])] == [2.0]


def steps(first: int, last: int, ended: float, each: float, tokens: int = 10) -> tuple[StepRecord, ...]:
    """Steps that follow one another, the last at `ended`; all before took as long."""
    return tuple(
        StepRecord(
            step=step, train_loss=1.0, learning_rate=1e-3, grad_norm=1.0, tokens=tokens * step, seconds=each * step,
            time=ended - each * (last - step),
        )
        for step in range(first, last + 1)
    )  # fmt: skip


def reported(key: str, first: int, last: int, ended: float, time: float, **scores: float) -> TrialReported:
    """A report at `time` of steps of 2 s each, the last of which ended at `ended`."""
    history = steps(first, last, ended, 2.0)
    return TrialReported(
        time=time, trial_key=key,
        step=last, metrics={"eval_loss": 1.0, **scores}, best_step=last, best_metrics={"eval_loss": 1.0},
        history=history, tokens=history[-1].tokens, seconds=history[-1].seconds, peak_memory_bytes=1,
        trainable_params=1, evaluated_time=time,
    )  # fmt: skip


def log(*events: Event, end: float) -> list[Event]:
    summary: dict[str, Any] = {"fingerprint": "0" * 16, "train_rows": 4, "train_tokens": 40, "eval_rows": 6}
    return [
        SweepStarted(sweep_id="toy-1", time=100.0, config="{}"),
        HostsStarted(time=110.0, since=101.0, hosts=1, slots=2, held=1, held_seconds=9.0, device="cpu"),
        DataPrepared(time=110.0, summary=summary),
        *events,
        SweepEnded(time=end, reason="finished"),
    ]


def measured(*events: Event, end: float) -> Any:
    """What a log says, which may be nothing."""
    return measuring.rate_of_sweep(log(*events, end=end), KEY)


def test_a_pass_that_two_trials_share_counts_once() -> None:
    """Two trials take five steps of 2 s side by side, from 110 to 120, and are evaluated together until 123."""
    found = measured(*(reported(key, 1, 5, 120.0, 123.0) for key in "ab"), end=127.0)
    assert (found.slots, found.step_seconds, found.tokens_per_step) == (2.0, 2.0, 10.0)
    assert (found.evaluation_seconds, found.evaluation_rows, found.row_tokens) == (1.5, 6, 10.0)
    assert (found.start_seconds, found.trial_seconds) == (10.0, 2.0)
    assert found.steps == 10


def test_an_evaluation_on_a_part_of_the_rows_counts_as_that_part() -> None:
    """Two evaluations of 2 of the 6 rows, and the one of the base on all rows before the first, take 5 s in all."""
    part = {"part": EvaluatedPart(rows=2, metrics={"eval_loss": 1.0})}
    both = [
        reported("a", 1, 5, 120.0, 124.0).model_copy(update=part),
        reported("b", 1, 5, 134.0, 135.0).model_copy(update=part),
    ]
    found = measured(*both, end=135.0)
    assert (found.evaluation_seconds, found.evaluation_rows) == (pytest.approx(5 / (1 + 2 / 3)), 6)


def test_a_host_that_idles_while_another_trains_makes_no_step_longer() -> None:
    """Two hosts of one slot train from 110 to 116, and one of them alone until 123, evaluations of 1 s included."""
    both, alone = [reported(key, 1, 3, 116.0, 117.0) for key in "ab"], reported("a", 4, 6, 123.0, 124.0)
    hosts = HostsStarted(time=110.0, since=101.0, hosts=2, slots=2, held=2, held_seconds=18.0, device="cpu")
    found = measured(hosts, *both, alone, end=124.0)
    assert (found.slots, found.step_seconds, found.evaluation_seconds, found.trial_seconds) == (1.0, 2.0, 1.0, 0.0)


def test_the_time_of_answers_is_no_time_of_an_evaluation_and_holds_for_sweeps_that_score_alike() -> None:
    """Evaluations of the loss take 1 s, and that at the end, whose answers are scored, 5 s."""
    scores = EvaluationSpec(metrics=("exact_match",), max_new_tokens=9)
    early, late = reported("a", 1, 3, 116.0, 117.0), reported("a", 4, 6, 123.0, 128.0, exact_match=0.5)
    found: Any = measuring.rate_of_sweep(log(early, late, end=128.0), KEY, scores, "alike")
    assert (found.evaluation_seconds, found.answer_seconds, found.trial_seconds) == (1.0, 5.0, 0.0)
    told = [speed([found], KEY, load(), answers) for answers in ("alike", "other", "")]
    assert [each and each.answer_seconds for each in told] == [5.0, None, None]
    assert measuring.rate_of_sweep(log(late, end=128.0), KEY, scores) is None, "none without answers"
    other = reported("b", 1, 3, 116.0, 117.0)
    unscored = measuring.rate_of_sweep(log(early, other, end=128.0), KEY, scores, "a")
    assert unscored.answers == "", "it must not take the place of one that was scored"


def test_answers_take_alike_on_the_same_rows_alone(tmp_path: Path) -> None:
    def key(**changed: Any) -> str:
        evaluation = EvaluationSpec(metrics=("exact_match",), **changed)
        return rates.answers_key(config_with_rows(tmp_path).model_copy(update={"evaluation": evaluation}))

    assert key() == key(when="every") != key(examples=9)
    before = key()
    (tmp_path / "rows.jsonl").write_text('{"text": "longer"}\n')
    choice = {"evaluation": EvaluationSpec(metrics=("choice",))}
    other = config_with_rows(tmp_path, max_length=9).model_copy(update=choice)
    assert rates.answers_key(toy()[0]) == "" != rates.answers_key(other) != before


EARLY, WHOLE = reported("a", 1, 3, 116.0, 117.0), reported("a", 1, 6, 122.0, 123.0)


def test_time_in_which_nothing_is_trained_or_evaluated_is_not_charged() -> None:
    finalists = TrialScored(time=723.0, trial_key="a", step=6, metrics={"exact_match": 1.0})
    scored = measured(WHOLE, finalists, end=724.0)
    waited = measured(EARLY, reported("a", 4, 6, 1006.0, 1007.0), end=1007.0)
    # By the clocks of two machines an evaluation ended before it began: it is no measurement.
    clocks = measured(WHOLE, reported("b", 1, 3, 130.0, 129.0), end=130.0)
    for found in (scored, waited, clocks):
        assert (found.step_seconds, found.evaluation_seconds) == (2.0, 1.0)
    assert scored.trial_seconds == 0.0


def test_too_few_steps_and_evaluations_are_no_measurement() -> None:
    assert measured(reported("a", 1, 5, 120.0, 121.0), end=122.0) is None
    assert measured(reported("a", 1, 6, 122.0, 121.0), end=124.0) is None, "the evaluation ended before it began"
    drivers = [*log(WHOLE, end=123.0), *log(end=999.0)]
    assert measuring.rate_of_sweep(drivers, KEY) is None, "only the latest driver counts"


def config_with_rows(folder: Path, **data: Any) -> SweepConfig:
    rows = folder / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    return toy(data={"train": str(rows), "text": "{text}", **data})[0]


def test_rates_and_shapes_are_remembered(tmp_path: Path) -> None:
    path, config = tmp_path / "deep" / "rates.json", config_with_rows(tmp_path)
    shape = RowShape(longest=9, mean=5.0, labelled=0.5, train_rows=3, eval_rows=2)
    assert read_rates(path) == Remembered()
    remember(path, rate(), {rates.data_key(config): shape})
    remember(path, rate(slots=8.0), {})
    found = read_rates(path)
    assert [known.slots for known in found.rates] == [2.0, 8.0]
    assert found.shape(config) == shape


def test_rates_of_another_version_that_measured_more_are_known(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(Remembered(rates=(rate(),)).model_dump_json().replace('"steps":30', '"steps":30,"spread":0.1'))
    assert "spread" in path.read_text()
    assert read_rates(path).rates == (rate(),)


@pytest.mark.parametrize("content", ["", '{"rates": [{"slots": 1}]}'])
def test_a_file_that_cannot_be_read_counts_as_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(content)
    assert read_rates(path) == Remembered()
    remember(path, rate(), {})
    assert read_rates(path).rates == (rate(),)


def test_a_rate_is_of_base_precision_and_device() -> None:
    model = {"source": "hub/model", "revision": "abc"}
    found = rate_key(
        SweepConfig.model_validate({"name": "x", "model": model, "quantization": {"scheme": "fp4"}}), "GPU"
    )
    assert (found.trainable, found.quantization, found.device) == ("qlora", "fp4 auto", "GPU")
    assert found.model == "hub/model@abc"
    assert rate_key(toy()[0], "GPU").model == "toy"


def test_what_changes_how_long_a_step_takes_makes_another_rate() -> None:
    usual, other = toy()[0], toy(quantization={"residency": "4bit"})[0]
    assert rate_key(other, "GPU").pacing == "quantization.residency=4bit"
    assert speed([rate(key=rate_key(usual, "GPU"))], rate_key(other, "GPU"), load()) is None
