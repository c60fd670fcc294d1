"""A plan in words: time with its range and source, or how to know it; the table of LoRA and QLoRA; durations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured_rates import rate
from sweep_files import toy

from sweeps.config.number_words import counted, duration, size
from sweeps.errors import ConfigError
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import AnswersWork, RowsAndRates
from sweeps.planning.lora_or_qlora import Fit, GpuAdvice
from sweeps.planning.plan import Plan, plan
from sweeps.planning.rates import answers_key, rate_key
from sweeps.report.plan_lines import launch_lines, plan_lines
from trainables.contract import Need, RowShape

HOURS = "0.15 (0.077 to 0.31) GPU-hours, which cost 0.39 (0.19 to 0.77) at 2.5 each"
NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
SHAPE = RowShape(longest=9, mean=5.0, labelled=0.7, train_rows=30, eval_rows=9)
CPU = Machine("cpu", 1, 10**6)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}
PLAIN: dict[str, Any] = {"scheduler": {"kind": "fifo"}, "budget": {"trials": 4, "steps_per_trial": 27}}


def planned(device: Any = "cpu", is_known: bool = True, kind: str = "fifo", trials: int = 4, steps: int = 27) -> Plan:
    config, space = toy(
        RATES,
        scheduler={"kind": "asha", "variant": kind} if kind != "fifo" else {"kind": kind},
        cluster={"slots_per_host": 1},
        budget={"trials": trials, "steps_per_trial": steps},
    )
    rates = [rate(rate_key(config, "CPU of ours, 2 threads"))] if is_known else []
    return plan(config, space, NEED, Machine(device, 1, 10**6), RowsAndRates(rates, rate_key(config, "CPU of ours")))


def lines(found: Plan) -> str:
    return "\n".join(line.strip() for line in plan_lines(found))


def first_screen(found: Plan) -> list[str]:
    return launch_lines(found, Path("/results/x"), "qsweep plan x.yaml")


def test_a_launch_says_what_runs_where_and_how_long_in_five_lines() -> None:
    assert first_screen(replace(planned(), memory_bytes=None)) == [
        "plan: 4 trials, evaluated at steps 3, 9 and 27; about 108 steps in all",
        "      where: on this machine: 1 CPU host with 1 slot (one trial trains at a time)",
        "      time: about 4 min 13 s (2 min 06 s to 8 min 26 s); from 126 steps that were measured before",
        "      sweep folder: /results/x",
        "      more: qsweep plan x.yaml",
    ]
    unknown = first_screen(planned(is_known=False))[2].strip()
    assert unknown.startswith("time: unknown: run `qsweep plan FILE --calibrate`")
    scored = replace(planned().forecast, answers=AnswersWork(5.0, 900.0, None))
    told = first_screen(replace(planned(), forecast=scored))[2]
    assert "8 min 26 s), and that of scoring answers on top, which is unknown; from 126 steps" in told


@pytest.mark.parametrize(("count", "rest"), [(3, []), (4, ["1 more warning"]), (9, ["6 more warnings"])])
def test_a_launch_shows_three_warnings_and_how_to_see_the_rest(count: int, rest: list[str]) -> None:
    found = replace(planned(), warnings=tuple(f"no. {number}" for number in range(count)))
    told = ["warning: no. 0", "warning: no. 1", "warning: no. 2", *(f"{each}: qsweep plan x.yaml" for each in rest)]
    assert first_screen(found)[5:] == told
    assert [line for line in plan_lines(found) if line.startswith("warning: ")][-1] == f"warning: no. {count - 1}"


def test_time_and_cost_are_told_with_their_range_and_where_they_come_from() -> None:
    # 20 s to start, 4 trials of 1 s, 108 steps of 2 s, 12 evaluations and that of the base of 1 s; half or twice of it.
    took, source = "time: about 4 min 13 s (2 min 06 s to 8 min 26 s)", "; from 126 steps that were measured before"
    assert took + source in lines(planned())
    assert f"{took}, 0.07 (0.035 to 0.14) GPU-hours{source}" in lines(planned("cuda"))
    paid = planned("cuda").at(2.5)
    cost = ", which cost 0.18 (0.088 to 0.35) at 2.5 each"
    assert f"{took}, 0.07 (0.035 to 0.14) GPU-hours{cost}{source}" in lines(paid)
    assert paid.as_json()["cost"]["expected"] == pytest.approx(2.5 * 253 / 3600)
    calculated = replace(planned("cuda").forecast, is_measured=False, rate="by arithmetic, not measured")
    ranges = "about 2 min 10 s to 8 min 30 s, 0.035 to 0.14 GPU-hours, which cost 0.07 to 0.28 at 2 each"
    told = lines(replace(planned("cuda"), forecast=calculated, price=2.0))
    assert f"time: {ranges}; by arithmetic, not measured" in told
    start = "about 10 s to 40 s, 0.0028 to 0.011 GPU-hours, which cost 0.0056 to 0.022 at 2 each; as measured before"
    assert f"of this, Ray starts and each host loads the base in {start}" in told
    assert "of this" not in lines(planned(is_known=False))
    assert "time: unknown: run `qsweep plan FILE --calibrate`" in lines(planned(is_known=False))


def test_the_most_steps_are_told_with_their_time_and_price() -> None:
    found = planned("cuda", kind="stop", trials=9).at(2.5)
    most = found.forecast.most_seconds
    assert most is not None and found.worst_steps == 243
    cost = found.as_json()["most_cost"]
    assert cost["expected"] == pytest.approx(2.5 * most.expected / 3600)
    (line,) = [line for line in lines(found).splitlines() if line.startswith("243 steps at most")]
    # All of them take 9 min 03 s; here the plays' evaluations are scaled up with their steps.
    assert line.endswith("; they take about 9 min 15 s (4 min 38 s to 18 min 31 s), " + HOURS)
    assert "fewer are stopped\n" in lines(planned(is_known=False, kind="stop", trials=9))


@pytest.mark.parametrize(("price", "device"), [(0.0, "cuda"), (math.inf, "cuda"), (math.nan, "cuda"), (2.5, "cpu")])
def test_what_is_no_price_is_refused(price: float, device: Any) -> None:
    with pytest.raises(ConfigError, match=r"^price: "):
        planned(device).at(price)


def test_what_a_plan_may_know_is_a_line() -> None:
    plain, engine = lines(planned()), "engine, which computes the losses"
    patient = "the sweep ends earlier where a trial brings no gain beyond chance (budget.patience)"
    told: dict[str, Plan] = {
        f"{engine}: flat": replace(planned(), engine="flat"),
        patient: replace(planned(), patience=1),
        "early stopping leaves about 4 of 9 trials for step 9, 2 for step 27": planned(kind="promote", trials=9),
    }
    for line, found in told.items():
        assert line in lines(found).splitlines()
    assert not any(word in plain for word in ("ends earlier", "engine", "early stopping"))
    assert "; about 1 step in all" in lines(planned(trials=1, steps=1))


def test_sizes_of_gpus_with_the_same_answer_share_a_line() -> None:
    sizes = (12, Fit(0), Fit(1, recomputes=True)), (24, Fit(2), Fit(3)), (40, Fit(2), Fit(3))
    found = replace(planned(), choices=tuple(GpuAdvice(*each) for each in sizes))
    *told, recompute = plan_lines(found)
    table = [line.split() for line in told[-3:]]
    assert table[0][0] == "GPU"
    assert table[1] == ["12", "GB", "does", "not", "fit", "1", "slot,", "recompute", "QLoRA"]
    assert table[2] == ["24-40", "GB", "2", "slots", "3", "slots", "LoRA"]
    assert recompute.startswith("      recompute: gradient checkpointing, a third more arithmetic for a fraction of ")


def test_a_table_says_why_more_memory_gives_no_more_slots() -> None:
    busy = GpuAdvice(80, Fit(7, keeps_busy=True), Fit(7, keeps_busy=True))
    told = plan_lines(replace(planned(), choices=(GpuAdvice(24, Fit(0), Fit(4)), busy)))[-1]
    assert told == "      a GPU is busy with 7 slots of these rows: more memory gives no more slots"


def test_numbers_have_the_unit_that_suits_them() -> None:
    told = {0.2: "0 s", 59.4: "59 s", 59.6: "1 min 00 s", 273: "4 min 33 s", 3600: "1 h 00 min", 90_000: "1 d 1 h"}
    assert {seconds: duration(seconds) for seconds in told} == told
    assert (counted(1, "slot"), counted(2, "slot")) == ("1 slot", "2 slots")
    assert (size(99_000_000), size(150_000_000)) == ("99 MB", "0.1 GB")


ABOUT = "about 5 evaluations with answers"


@pytest.mark.parametrize(
    ("evaluation", "known", "words"),
    [
        # 4 trials and the base, each with 9 rows of at most 20 tokens.
        ({"max_new_tokens": 20}, {}, f"scores: {ABOUT}, of about 900 tokens at most in all; "),
        ({"max_new_tokens": 20, "when": "every"}, {}, "about 13 evaluations with answers, of about 2,340 tokens"),
        ({"max_new_tokens": 20, "examples": 5}, {}, f"{ABOUT}, of about 500 tokens"),
        ({}, {}, "of unknown length before the rows are read: give evaluation.max_new_tokens"),
        ({}, {"rows": SHAPE}, f"{ABOUT}, of about 360 tokens"),
        ({"metrics": ["choice"]}, {}, "scores: about 5 evaluations that rank labels and generate no answers; "),
    ],
)
def test_the_tokens_of_answers_are_counted(evaluation: dict[str, Any], known: dict[str, Any], words: str) -> None:
    data = {"train": "hub/rows", "eval": "hub/more", "prompt": "{q}", "completion": "{a}"}
    config, space = toy(RATES, data=data, evaluation={"metrics": ["exact_match"], **evaluation}, **PLAIN)
    told = lines(plan(config, space, NEED, CPU, RowsAndRates(eval_rows=9, **known)))
    assert words in told
    assert "their time is unknown: the first sweep" in told


def test_the_time_of_answers_is_counted_where_a_sweep_has_scored_alike() -> None:
    evaluation = {"metrics": ["exact_match"], "max_new_tokens": 20}

    config, space = toy(RATES, cluster={"slots_per_host": 1}, evaluation=evaluation, **PLAIN)
    key = rate_key(config, "CPU of ours")

    def told(**seen: Any) -> Plan:
        measured = rate(key).model_copy(update={"answers": answers_key(config), **seen})
        return plan(config, space, NEED, CPU, RowsAndRates([measured], key))

    without, with_it = told(), told(answer_seconds=30.0)
    assert without.forecast.seconds is not None and with_it.forecast.seconds is not None
    assert with_it.forecast.seconds.expected - without.forecast.seconds.expected == pytest.approx(5 * 30.0)
    assert "; they are 40% of the work" in lines(with_it), "150 s, beside 108 steps of 2 s and 13 evaluations of 1 s"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "about 828 tokens to train on (a guess: the rows are not read yet)"),
        ({"row_tokens": 50.0}, "about 450 tokens to train on (estimated from the characters of the rows)"),
        ({"row_tokens": 1e9}, "about 2,070 tokens to train on (estimated from the characters of the rows)"),
        ({"rows": SHAPE}, "about 45 tokens to train on; "),
    ],
)
def test_tokens_are_told_with_what_the_length_of_rows_follows_from(rows: dict[str, Any], words: str) -> None:
    data = {"train": "hub/rows", "eval": "hub/more", "text": "{text}", "max_length": 230, "group_by": "author"}
    more: dict[str, Any] = {"training": {"batch_size": 1}, "budget": {"trials": 1, "steps_per_trial": 9}}
    config, space = toy(RATES, data=data, scheduler={"kind": "fifo"}, **more)
    told = lines(plan(config, space, NEED, CPU, RowsAndRates(eval_rows=9, **rows)))
    assert f"\n{words}" in told
    assert "\nrows with an equal author count as one group (data.group_by)" in told
