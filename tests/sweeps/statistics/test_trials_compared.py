"""What the sweep's folder keeps of each row is read as it was written, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sweep_events import base, begun, ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.statistics.comparison import Separation
from sweeps.statistics.trials import compare_best, compare_chosen, is_gain
from trainables.contract import Evaluation

ROWS = 40
HARD = np.random.default_rng(1).uniform(10, 30, ROWS)


def evaluation(loss: float, rows: int = ROWS) -> Evaluation:
    """Rows of ten tokens, all of them as far from the others as the loss says."""
    losses = HARD[:rows] + 10 * loss - HARD[:rows].mean()
    found = tuple(losses.tolist())
    return Evaluation(
        metrics={"eval_loss": sum(found) / (10 * rows)}, row_losses=found, row_tokens=(10,) * rows, hardware="cpu f"
    )


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def trial(folder: SweepFolder, key: str, number: int, loss: float, rows: int = ROWS) -> list[Event]:
    """A completed trial, and the rows that it keeps."""
    return trial_of(folder, key, number, evaluation(loss, rows))


def trial_of(folder: SweepFolder, key: str, number: int, found: Evaluation) -> list[Event]:
    kept = {"step": 3, "adapter_sha256": "0", **found.model_dump()}
    folder.keep(key, "best", 3, {"eval_rows.json": json.dumps(kept).encode()})
    return [started(key, number), reported(key, 3, found.loss), ended(key, TrialState.COMPLETED)]


def separated(folder: SweepFolder, *events: list[Event]) -> Separation:
    found = compare_best(folder, record([event for of_trial in events for event in of_trial]))
    assert found is not None
    return found


def test_the_next_trials_are_compared_with_the_best(folder: SweepFolder) -> None:
    found = separated(folder, trial(folder, "a", 0, 2.0), trial(folder, "b", 1, 1.5), trial(folder, "c", 2, 1.7))
    assert [(other.key, other.apart) for other in found.trials] == [("c", True), ("a", True)]
    assert found.trials[0].difference == pytest.approx(0.2)
    assert (found.rows, found.base, found.not_compared) == (ROWS, None, 0)


def test_only_the_next_ones_are_compared_and_the_default(folder: SweepFolder) -> None:
    trials = [trial(folder, f"k{n}", n, 1.0 + (99 if n == 0 else n) / 100) for n in range(15)]
    found = separated(folder, *trials)
    assert [other.key for other in found.trials] == [*(f"k{n}" for n in range(2, 12)), "k0"]
    assert found.not_compared == 3
    assert found.confidence == 1 - 0.01 / 55, "one for each pair of the best and the ten that are next"


@pytest.mark.parametrize(
    ("losses", "known", "gains"),
    [
        ([2.0], True, [True]),
        ([2.0, 2.1], True, [True, False]),
        ([2.0, 1.5, 1.7, 1.4], True, [True, True, False, True]),
        # Better by chance alone, and where chance cannot be told.
        ([2.0, 1.999], True, [True, False]),
        ([2.0, 1.999], False, [True, True]),
    ],
)
def test_a_first_report_that_is_better_beyond_chance_is_a_gain(
    folder: SweepFolder, losses: list[float], known: bool, gains: list[bool]
) -> None:
    events: list[Event] = [begun()]
    for place, loss in enumerate(losses):
        if known:
            noise = np.random.default_rng(place).normal(0, 1, ROWS)
            found = evaluation(loss)
            rows = np.asarray(found.row_losses) + noise - noise.mean()
            found = found.model_copy(update={"row_losses": tuple(rows.tolist())})
            folder.keep(f"k{place}", "rows", 3, {"eval_rows.json": found.model_dump_json().encode()})
        events.append(started(f"k{place}", place))
        told = reported(f"k{place}", 3, loss)
        gain = is_gain(folder, record(events), f"k{place}", told.report)
        assert gain is gains[place]
        events.append(told.model_copy(update={"is_gain": gain}))


def test_later_reports_and_repeats_bring_no_gain(folder: SweepFolder) -> None:
    again = started("b", 1).model_copy(update={"repeats": "a"})
    whole = record([begun(), started("a"), reported("a", 3, 2.0).model_copy(update={"is_gain": True}), again])
    assert is_gain(folder, whole, "a", reported("a", 9, 1.0).report) is None
    assert is_gain(folder, whole, "b", reported("b", 3, 1.0).report) is None


def spoilt(folder: SweepFolder, content: str | None) -> str:
    events = trial(folder, "a", 0, 2.0), trial(folder, "b", 1, 1.5)
    path = folder.trial("a") / "best-000003" / "eval_rows.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    (found,) = separated(folder, *events).trials
    assert found.apart is None
    return found.unknown


def test_files_that_are_missing_are_told(folder: SweepFolder) -> None:
    assert spoilt(folder, None) == "the rows of t00 at step 3 are missing"


@pytest.mark.parametrize("content", ["", "{}", '{"eval_loss": NaN}', "[" * 100_000])
def test_files_that_are_spoilt_are_told(folder: SweepFolder, content: str) -> None:
    assert spoilt(folder, content) == "the rows of t00 at step 3 cannot be read"


def test_rows_of_another_step_are_not_believed(folder: SweepFolder) -> None:
    other = json.dumps(evaluation(1.9).document())
    assert spoilt(folder, other) == "the rows of t00 at step 3 are not those of its eval_loss"


def test_a_trainable_without_a_value_per_row_is_told(folder: SweepFolder) -> None:
    assert spoilt(folder, '{"eval_loss": 2.0}') == "the trainable gives no value per row for eval_loss"


def test_a_chosen_trial_is_compared_with_the_confidence_of_the_closing_table(folder: SweepFolder) -> None:
    trials = [trial(folder, f"k{n}", n, 1.0 + n / 10) for n in range(6)]
    failed = [*trial(folder, "b", 6, 0.1), ended("b", TrialState.FAILED)]
    whole = record([base(4.5), *(event for of_trial in [*trials, failed] for event in of_trial), started("c", 7)])
    chosen = [whole.trials[key] for key in ("k3", "k1", "b", "c")]
    found = compare_chosen(folder, whole, chosen[0], chosen[1:])
    # One that failed has rows too; one that has not reported has no value.
    assert [(each.key, each.apart, round(each.difference, 6)) for each in found.trials] == [
        ("k1", True, -0.2),
        ("b", True, -1.2),
    ]
    usual = compare_best(folder, whole)
    assert usual is not None
    assert (found.rows, found.confidence, found.not_compared) == (ROWS, usual.confidence, 0)
    backwards = compare_chosen(folder, whole, chosen[3], chosen[:3])
    assert backwards.trials == ()


def test_while_a_sweep_runs_a_pair_has_the_same_interval_whoever_is_named_beside_it(folder: SweepFolder) -> None:
    whole = record([event for n in range(4) for event in trial(folder, f"k{n}", n, 1.0 + n / 10)[:-1]])
    first, *others = whole.trials.values()
    pair, all_of_them = compare_chosen(folder, whole, first, others[:1]), compare_chosen(folder, whole, first, others)
    assert pair.confidence == all_of_them.confidence
    assert pair.trials[0] == all_of_them.trials[0]


def test_rows_that_only_the_base_tells_apart_are_no_copies_for_chosen_trials(folder: SweepFolder) -> None:
    """On easy rows the losses of good adapters are a few steps of rounding."""
    start = evaluation(4.5)
    folder.base_rows.write_text(start.model_dump_json())

    def good(above: int) -> Evaluation:
        losses = tuple((above + row % 3) * 2**-19 for row in range(ROWS))
        loss = sum(losses) / (10 * ROWS)
        return start.model_copy(update={"metrics": {"eval_loss": loss}, "row_losses": losses})

    trials = [trial_of(folder, "a", 0, good(1)), trial_of(folder, "b", 1, good(2))]
    whole = record([base(start.loss), *(event for of_trial in trials for event in of_trial)])
    closing, pair = compare_best(folder, whole), compare_chosen(folder, whole, whole.trials["a"], [whole.trials["b"]])
    assert closing is not None
    assert (pair.rows, pair.trials, pair.base) == (ROWS, closing.trials, None)
    assert pair.trials[0].apart


# After equal steps


def run(
    folder: SweepFolder,
    key: str,
    number: int,
    losses: Mapping[int, float],
    state: TrialState = TrialState.COMPLETED,
    batch: int | None = None,
) -> list[Event]:
    """A trial with a report at each step, its rows, and the adapter of its best step; rungs may count examples."""
    events: list[Event] = [started(key, number)]
    best = min(losses, key=lambda step: losses[step])
    for step, loss in losses.items():
        found = evaluation(loss)
        folder.keep(key, "rows", step, {"eval_rows.json": json.dumps({"step": step, **found.document()}).encode()})
        so_far = min((its, at) for at, its in losses.items() if at <= step)
        event = reported(key, step, found.loss, best=(so_far[1], evaluation(so_far[0]).loss))
        report = event.report.model_copy(update={"resource": None if batch is None else step * batch})
        events.append(event.model_copy(update={"report": report}))
    folder.keep(key, "best", best, {"eval_rows.json": json.dumps(evaluation(losses[best]).document()).encode()})
    return [*events, ended(key, state)]


LONG = {2: 3.0, 6: 2.0, 18: 1.0}


def test_a_trial_that_was_stopped_is_compared_with_the_best_one_as_that_was_then(folder: SweepFolder) -> None:
    stopped = run(folder, "b", 1, {2: 3.2, 6: 2.1}, TrialState.STOPPED)
    (found,) = separated(folder, run(folder, "a", 0, LONG), stopped).trials
    assert (found.steps, found.point, found.apart) == ((6, 6), 6, True)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_trials_that_went_as_far_are_compared_at_their_best_steps(folder: SweepFolder) -> None:
    """Both had 18 steps to become best in: at step 18 the one that had overfitted would seem worse than it is."""
    (found,) = separated(folder, run(folder, "a", 0, LONG), run(folder, "b", 1, {2: 3.0, 6: 1.1, 18: 1.5})).trials
    assert (found.steps, found.point, round(found.difference, 6)) == ((6, 18), None, 0.1)


def test_where_no_rows_are_kept_after_equal_steps_the_best_steps_are_compared(folder: SweepFolder) -> None:
    """As where budget.disk had no room for more than the rows of the best steps."""
    events = run(folder, "a", 0, LONG), run(folder, "b", 1, {2: 3.2, 6: 2.1}, TrialState.STOPPED)
    for rows in folder.path.glob("trials/*/rows-*/eval_rows.json"):
        rows.unlink()
    (found,) = separated(folder, *events).trials
    assert (found.steps, found.point, found.apart, round(found.difference, 6)) == ((6, 18), None, True, 1.1)


def test_where_rungs_count_examples_so_do_equal_steps(folder: SweepFolder) -> None:
    first = run(folder, "a", 0, LONG, batch=8)
    stopped = run(folder, "b", 1, {1: 3.2, 3: 2.1}, TrialState.STOPPED, batch=16)
    (found,) = separated(folder, first, stopped).trials
    assert (found.steps, found.point, round(found.difference, 6)) == ((3, 6), 48, 0.1)


# Another metric


def scored(folder: SweepFolder, key: str, number: int, right: int, values: bool = True) -> list[Event]:
    """A completed trial that answers so many of the rows right."""
    share, hits = right / ROWS, tuple(float(row < right) for row in range(ROWS))
    metrics = {"eval_loss": 1.0, "accuracy": share}
    found = Evaluation(metrics=metrics, row_values={"accuracy": hits} if values else {}, hardware="cpu f")
    folder.keep(key, "rows", 3, {"eval_rows.json": json.dumps(found.document()).encode()})
    event = reported(key, 3, 1.0)
    report = event.report.model_copy(update={"metrics": metrics, "best_metrics": metrics})
    return [started(key, number), event.model_copy(update={"report": report}), ended(key, TrialState.COMPLETED)]


BY_ACCURACY = begun().model_copy(update={"config": '{"objective": {"metric": "accuracy", "mode": "max"}}'})


def test_another_metric_is_compared_by_the_trainables_value_of_each_row(folder: SweepFolder) -> None:
    found = separated(folder, [BY_ACCURACY], scored(folder, "a", 0, 10), scored(folder, "b", 1, 30))
    (other,) = found.trials
    assert (other.key, other.difference, other.apart, found.rows) == ("a", 0.5, True, ROWS), (
        "the best is that much better"
    )
