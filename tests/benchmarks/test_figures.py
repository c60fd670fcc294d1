"""What the benchmarks make of what they saw."""

import json
import math

from benchmarks.against_ray_tune import Told, compared, figures, measures, spans, union
from benchmarks.schedulers import FEW_SLOTS, FEW_TRIALS, Case, Outcome, cases, run, simulated
from benchmarks.simulator_tables import of_cuts, of_searchers
from benchmarks.watched import Watched
from sweeps.record.events import TrialReported
from trainables.contract import Report, StepRecord


def step(number: int, at: float, seconds: float) -> StepRecord:
    return StepRecord(
        step=number, train_loss=1.0, learning_rate=1e-3, grad_norm=1.0, tokens=number, seconds=seconds, time=at
    )


def reported(at: float, *history: StepRecord) -> TrialReported:
    last = history[-1]
    report = Report(
        step=last.step, metrics={"eval_loss": 1.0}, best_step=last.step, best_metrics={"eval_loss": 1.0},
        history=history, tokens=last.tokens, seconds=last.seconds, peak_memory_bytes=1, trainable_params=1, time=at,
    )  # fmt: skip
    return TrialReported(time=at, trial_key="a", report=report)


def side(seconds: float, *told: Told) -> dict:
    return figures(Watched(started=100.0, seconds=seconds, peak_bytes=1, cpu_seconds=2.0), list(told), eval_tokens=10)


def test_both_sides_report_at_the_same_steps():
    assert {name: each.rungs for name, each in measures(4).items()} == {
        "eight": [1, 3, 9],
        "short": [1, 3],
        "engine": [3],
    }


def test_time_that_trials_share_counts_once():
    assert union([(5.0, 6.0), (1.0, 3.0), (2.0, 4.0), (2.5, 2.75)]) == 4.0


def test_a_step_after_a_report_lasts_as_long_as_its_trial_trained_since():
    found = spans([reported(14.0, step(1, 12.0, 2.0)), reported(26.0, step(2, 21.0, 3.0), step(3, 24.0, 6.0))])
    assert found == [(10.0, 12.0), (12.0, 14.0), (20.0, 21.0), (21.0, 24.0), (24.0, 26.0)]


def test_a_trial_that_reports_twice_counts_once():
    both = side(20.0, Told("a", 110.0, 1, 2.0, 100), Told("b", 115.0, 1, 3.0, 120), Told("a", 119.0, 3, 1.0, 300))
    assert (both["trials"], both["steps"], both["evaluations"]) == (2, 4, 3)
    assert both["trained_tokens"] == 420
    assert both["tokens_per_second"] == (420 + 30) / 20.0


def test_the_time_to_a_loss_is_to_one_that_both_sides_reach():
    ours = side(20.0, Told("a", 105.0, 1, 2.0, 100), Told("a", 110.0, 3, 1.0, 300))
    plain = side(60.0, Told("b", 130.0, 1, 1.5, 100), Told("b", 150.0, 3, 1.4, 300))
    found = compared("eight", {"ours": ours, "plain": plain})
    assert found["loss"] == 1.4
    assert found["seconds_to_loss"] == {"ours": 10.0, "plain": 50.0}
    assert (found["times_faster"], found["times_faster_to_loss"], found["goal"]) == (3.0, 5.0, 3.5)


# Simulated sweeps


def test_each_case_has_a_name_of_its_own():
    assert len({case.name for case in cases()}) == len(cases())


def test_a_simulated_sweep_has_the_answer_of_its_time():
    outcome = Outcome(steps=9, makespan=9.0, path=[[3.0, 0.5], [6.0, 0.1]])
    assert [outcome.regret(until) for until in (2.0, 3.0, 5.9, 6.0)] == [math.inf, 0.5, 0.5, 0.1]
    assert outcome.regret() == 0.1


def test_an_answer_at_the_end_is_that_of_the_whole_sweep():
    found = simulated(Case("promote, breadth", "random", 1, trials=9), 0)
    assert found.path[-1][0] <= found.makespan
    assert found.path == sorted(found.path, key=lambda each: each[0])


def test_tables_hold_what_was_simulated_and_leave_the_rest_empty(tmp_path):
    few = [case for case in cases() if case.trials == 12 and case.rule == "stop" and case.arrival == "by random"]
    assert run(few, tmp_path, math.inf) == 0
    (line,) = [
        each for each in of_searchers(tmp_path, FEW_SLOTS, FEW_TRIALS) if each.startswith("| `stop` | `random` |")
    ]
    steps, makespan, _ = line.split("|")[3].split(" / ")
    assert steps.strip() == makespan
    assert all(each.endswith("|  |  |  |  |  |") for each in of_cuts(tmp_path)[2:])


def test_what_was_simulated_is_not_simulated_again(tmp_path):
    case, other = Case("stop", "random", 1, trials=3), Case("fifo", "random", 1, trials=3)
    assert run([case], tmp_path, math.inf) == 0
    kept = tmp_path / f"{case.name}.json"
    assert len(json.loads(kept.read_text())) == case.seeds
    kept.write_text("[]")
    assert run([case, other], tmp_path, -math.inf) == 1
    assert kept.read_text() == "[]"
