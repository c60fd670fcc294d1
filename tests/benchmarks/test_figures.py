"""What the benchmarks make of what they saw."""

from pathlib import Path

from benchmarks import nested_rows, plans
from benchmarks.against_ray_tune import Told, compared, figures, measures
from benchmarks.schedulers import BREADTH, Case, Outcome, simulated
from benchmarks.watched import Watched


def side(seconds: float, *told: Told) -> dict:
    return figures(Watched(seconds, peak_bytes=1), list(told), eval_tokens=10)


def test_both_sides_report_at_the_same_steps():
    assert [each.rungs for each in measures().values()] == [[1, 3, 9], [1, 3], [3]]


def test_a_trial_that_reports_twice_counts_once_and_ratios_are_of_the_slower_side():
    ours = side(20.0, Told("a", 1, 2.0, 100), Told("b", 1, 3.0, 120), Told("a", 3, 1.0, 300))
    assert (ours["steps"], ours["tokens_per_second"], ours["best_loss"]) == (4, (420 + 30) / 20.0, 1.0)
    plain = side(60.0, Told("c", 3, 1.4, 440))
    assert compared("eight", {"ours": ours, "plain": plain}) == {
        "goal": 3.5, "times_faster": 3.0, "times_faster_per_step": 4.0, "times_faster_per_token": 3.0,
    }  # fmt: skip


def test_a_replay_on_parts_of_the_rows_evaluates_fewer_tokens_and_its_winner_on_all():
    found = nested_rows.simulated(64, 3)
    order = list(range(nested_rows.TRIALS))
    whole, *parts = (nested_rows.Replay(found, factor).run(order) for factor in (None, 2, 8))
    best = min(found.loss(trial, place) for trial in order for place in range(len(found.points)))
    assert whole.tokens == 64 * (24 + 9 + 4 + 2), (
        "of 24 trials 8 go on, of 9 then 3, then 1, each time with the default"
    )
    assert whole.tokens > parts[0].tokens > parts[1].tokens
    for each in (whole, *parts):
        places = range(len(found.points))
        assert min(abs(found.loss(each.winner, place) - best - each.regret) for place in places) < 1e-9


def test_a_simulated_sweep_has_the_answer_of_its_time():
    outcome = Outcome(steps=9, makespan=9.0, path=[(3.0, 0.5), (6.0, 0.1)])
    assert [str(outcome.regret(until)) for until in (2.0, 3.0, 5.9, 6.0)] == ["inf", "0.5", "0.5", "0.1"]
    assert outcome.regret() == 0.1
    found = simulated(Case(BREADTH, "random", 1, trials=9), 0)
    assert found.path == sorted(found.path)
    assert found.path[-1][0] <= found.makespan


def test_the_page_on_plans_says_how_often_past_sweeps_lay_within_their_range():
    *_, steps, time, _, _, _, _, _ = plans.lines(list(plans.compared(plans.kept())))
    assert (steps, time) == ("steps within their range: 46 of 46", "time within its range: 22 of 34")
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    assert "All 46 took steps\nwithin their range. Of 34 whose whole time was known, 22 took" in page
