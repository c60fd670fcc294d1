"""What the sweep's folder keeps of each row is read as it was written, and nothing else is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sweep_events import base, begun, ended, record, reported, started

from sweeps.record.events import EvaluatedPart, Event, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.statistics.comparison import Separation
from sweeps.statistics.intervals import SeedNoise
from sweeps.statistics.trials import compare_best, compare_chosen, is_gain, noise
from trainables.contract import Evaluation
from trainables.specs import QuantizationSpec, TrialSpec

ROWS = 40
HARD = np.random.default_rng(1).uniform(10, 30, ROWS)


def evaluation(loss: float) -> Evaluation:
    """Rows of ten tokens, all of them as far from the others as the loss says."""
    found = tuple((HARD + 10 * loss - HARD.mean()).tolist())
    metrics = {"eval_loss": sum(found) / (10 * ROWS)}
    return Evaluation(metrics=metrics, row_losses=found, row_tokens=(10,) * ROWS, hardware="cpu f")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def trial(folder: SweepFolder, key: str, number: int, loss: float) -> list[Event]:
    """A completed trial, and the rows that it keeps."""
    return trial_of(folder, key, number, evaluation(loss))


def trial_of(folder: SweepFolder, key: str, number: int, found: Evaluation) -> list[Event]:
    kept = {"step": 3, "adapter_sha256": "0", **found.document()}
    folder.keep(key, "best", 3, {"eval_rows.json": json.dumps(kept).encode()})
    return [started(key, number), reported(key, 3, found.loss), ended(key, TrialState.COMPLETED)]


def separated(folder: SweepFolder, *events: list[Event]) -> Separation:
    found = compare_best(folder, record([event for of_trial in events for event in of_trial]))
    assert found is not None
    return found


def test_the_next_trials_are_compared_with_the_best_and_the_default(folder: SweepFolder) -> None:
    trials = [trial(folder, f"k{n}", n, 1.0 + (99 if n == 0 else n) / 100) for n in range(15)]
    found = separated(folder, *trials)
    assert [(other.key, other.apart) for other in found.trials] == [
        *((f"k{n}", True) for n in range(2, 12)),
        ("k0", True),
    ]
    assert found.trials[0].difference == pytest.approx(0.01)
    assert (found.rows, found.base, found.not_compared) == (ROWS, None, 3)
    assert found.confidence == 1 - 0.01 / 55, "one for each pair of the best and the ten that are next"


def test_the_best_of_each_base_is_compared_whether_its_base_was_evaluated_or_not(folder: SweepFolder) -> None:
    trials = [trial(folder, f"k{n}", n, 1.0 + n / 100) for n in range(14)]
    spec = TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme="none")).model_dump_json()
    trials[13] = [started("k13", 13).model_copy(update={"spec": spec}), *trials[13][1:]]
    assert "k13" in [other.key for other in separated(folder, *trials).trials]


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
def test_a_first_report_that_is_better_beyond_chance_is_a_gain(folder, losses, known, gains):
    events: list[Event] = [begun()]
    for place, loss in enumerate(losses):
        if known:
            noise = np.random.default_rng(place).normal(0, 1, ROWS)
            found = evaluation(loss)
            rows = np.asarray(found.row_losses) + noise - noise.mean()
            found = found.model_copy(update={"row_losses": tuple(rows.tolist())})
            folder.keep(f"k{place}", "rows", 3, {"eval_rows.json": json.dumps(found.document()).encode()})
        events.append(started(f"k{place}", place))
        told = reported(f"k{place}", 3, loss)
        gain = is_gain(folder, record(events), told)
        assert gain is gains[place]
        events.append(told.model_copy(update={"is_gain": gain}))


def test_later_reports_and_repeats_bring_no_gain(folder: SweepFolder) -> None:
    again = started("b", 1).model_copy(update={"repeats": "a"})
    whole = record([begun(), started("a"), reported("a", 3, 2.0).model_copy(update={"is_gain": True}), again])
    assert is_gain(folder, whole, reported("a", 9, 1.0)) is None
    assert is_gain(folder, whole, reported("b", 3, 1.0)) is None


ROWS_OF_T00 = "the rows of t00 at step 3"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, f"{ROWS_OF_T00} are missing"),
        *((content, f"{ROWS_OF_T00} cannot be read") for content in ("", "{}", '{"eval_loss": NaN}', "[" * 100_000)),
        (json.dumps(evaluation(1.9).document()), f"{ROWS_OF_T00} are not those of its eval_loss"),
        ('{"eval_loss": 2.0}', "the trainable gives no value per row for eval_loss"),
    ],
    ids=["missing", "empty", "no loss", "NaN", "deep", "of another step", "no rows"],
)
def test_rows_that_are_not_those_of_the_trial_are_not_believed(folder, content, told):
    events = trial(folder, "a", 0, 2.0), trial(folder, "b", 1, 1.5)
    path = folder.trial("a") / "best-000003" / "eval_rows.json"
    path.unlink() if content is None else path.write_text(content)
    (found,) = separated(folder, *events).trials
    assert (found.apart, found.unknown) == (None, told)


def test_a_chosen_trial_is_compared_with_the_confidence_of_the_closing_table(folder: SweepFolder) -> None:
    trials = [trial(folder, f"k{n}", n, 1.0 + n / 10) for n in range(6)]
    failed = [*trial(folder, "b", 6, 0.1), ended("b", TrialState.FAILED)]
    whole = record([base(4.5), *(event for of_trial in [*trials, failed] for event in of_trial), started("c", 7)])
    chosen = [whole.trials[key] for key in ("k3", "k1", "b", "c")]
    found = compare_chosen(folder, whole, chosen[0], chosen[1:])
    # One that failed has rows too; one that has not reported has no value.
    told = [(each.key, each.apart, round(each.difference, 6)) for each in found.trials]
    assert told == [("k1", True, -0.2), ("b", True, -1.2)]
    usual = compare_best(folder, whole)
    assert usual is not None
    assert (found.rows, found.confidence, found.not_compared) == (ROWS, usual.confidence, 0)
    assert compare_chosen(folder, whole, chosen[3], chosen[:3]).trials == ()


def test_while_a_sweep_runs_a_pair_has_the_same_interval_whoever_is_named_beside_it(folder: SweepFolder) -> None:
    whole = record([event for n in range(4) for event in trial(folder, f"k{n}", n, 1.0 + n / 10)[:-1]])
    first, *others = whole.trials.values()
    pair, all_of_them = (compare_chosen(folder, whole, first, others[:count]) for count in (1, 3))
    assert (pair.confidence, pair.trials[0]) == (all_of_them.confidence, all_of_them.trials[0])


def test_rows_that_only_the_base_tells_apart_are_no_copies_for_chosen_trials(folder: SweepFolder) -> None:
    """On easy rows the losses of good adapters are a few steps of rounding."""
    start = evaluation(4.5)
    folder.base_rows.write_text(json.dumps(start.document()))

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


def run(folder: SweepFolder, key: str, number: int, losses: Mapping[int, float], batch: int | None) -> list[Event]:
    """A trial with a report at each step, its rows, and the adapter of its best step; rungs may count examples."""
    events: list[Event] = [started(key, number)]
    best = min(losses, key=lambda step: losses[step])
    for step, loss in losses.items():
        found = evaluation(loss)
        folder.keep(key, "rows", step, {"eval_rows.json": json.dumps({"step": step, **found.document()}).encode()})
        so_far = min((its, at) for at, its in losses.items() if at <= step)
        best_so_far = (so_far[1], evaluation(so_far[0]).loss)
        events.append(reported(key, step, found.loss, best=best_so_far, resource=batch and step * batch))
    folder.keep(key, "best", best, {"eval_rows.json": json.dumps(evaluation(losses[best]).document()).encode()})
    return [*events, ended(key, TrialState.COMPLETED if len(losses) == 3 else TrialState.STOPPED)]


@pytest.mark.parametrize(
    ("losses", "batches", "steps", "point", "difference"),
    [
        ({2: 3.2, 6: 2.1}, None, (6, 6), 6, 0.1),
        ({1: 3.2, 3: 2.1}, (8, 16), (3, 6), 48, 0.1),
        # Both had 18 steps to become best in: at step 18 the one that had overfitted would seem worse than it is.
        ({2: 3.0, 6: 1.1, 18: 1.5}, None, (6, 18), None, 0.1),
        # As where budget.disk had no room for more than the rows of the best steps.
        ({2: 3.2, 6: 2.1}, "no rows", (6, 18), None, 1.1),
    ],
    ids=["stopped", "rungs count examples", "as far", "no rows of equal steps"],
)
def test_a_trial_is_compared_with_the_best_one_after_equal_steps(folder, losses, batches, steps, point, difference):
    of_first, of_other = batches if isinstance(batches, tuple) else (None, None)
    events = run(folder, "a", 0, {2: 3.0, 6: 2.0, 18: 1.0}, of_first), run(folder, "b", 1, losses, of_other)
    if batches == "no rows":
        for rows in folder.path.glob("trials/*/rows-*/eval_rows.json"):
            rows.unlink()
    (found,) = separated(folder, *events).trials
    assert (found.steps, found.point, found.apart) == (steps, point, True)
    assert (found.difference, found.low, found.high) == pytest.approx((difference,) * 3)


def test_repeats_and_the_trial_that_they_repeat_are_one_group_without_those_that_were_cut_short() -> None:
    def seeds(*losses: tuple[float, str | None], last: TrialState = TrialState.COMPLETED) -> SeedNoise | None:
        events: list[Event] = []
        for number, (loss, repeats) in enumerate(losses):
            state = last if number + 1 == len(losses) else TrialState.COMPLETED
            begins = started(f"k{number}", number).model_copy(update={"repeats": repeats})
            events += [begins, reported(f"k{number}", 3, loss), ended(f"k{number}", state)]
        return noise(record(events).trials.values(), "eval_loss")

    whole = [(1.0, None), (2.0, None), (1.2, "k0"), (2.1, "k1")]
    assert seeds(*whole[:2]) is None
    both, one = seeds(*whole), seeds(*whole, last=TrialState.STOPPED)
    assert both is not None and both.deviation == pytest.approx(math.sqrt((0.02 + 0.005) / 2))
    assert one is not None and (one.points, one.freedom) == (1, 1)


def test_another_metric_is_compared_by_the_trainables_value_of_each_row(folder: SweepFolder) -> None:
    config = '{"objective": {"metric": "accuracy", "mode": "max"}}'
    events: list[Event] = [begun(config=config)]
    for number, (key, right) in enumerate((("a", 10), ("b", 30))):
        metrics, hits = {"eval_loss": 1.0, "accuracy": right / ROWS}, tuple(float(row < right) for row in range(ROWS))
        found = Evaluation(metrics=metrics, row_values={"accuracy": hits}, hardware="cpu f")
        folder.keep(key, "rows", 3, {"eval_rows.json": json.dumps(found.document()).encode()})
        told = reported(key, 3, 1.0, metrics=metrics, best_metrics=metrics)
        events += [started(key, number), told, ended(key, TrialState.COMPLETED)]
    whole = separated(folder, events)
    (other,) = whole.trials
    assert (other.key, other.difference, other.apart, whole.rows) == ("a", 0.5, True, ROWS), "the best is better"


def part_of(found: Evaluation, size: int, told: float) -> Evaluation:
    """The evaluation on the first rows alone, with a loss that was brought to all rows."""
    own = found.on(range(size))
    raw = sum(own.row_losses) / sum(own.row_tokens)
    update = {"metrics": {"eval_loss": told}, "raw": {"eval_loss": raw}, "places": tuple(range(size))}
    return own.model_copy(update=update)


def test_trials_on_parts_of_the_rows_are_compared_on_the_rows_that_both_have(folder: SweepFolder) -> None:
    """The values that are shown differ by less, because the base brings them to all rows."""
    best, other, third = evaluation(1.0), part_of(evaluation(1.2), 16, 1.05), part_of(evaluation(1.3), 20, 1.1)
    events = [begun(), *trial_of(folder, "best", 0, best)]
    for number, (key, found) in enumerate({"other": other, "third": third}.items(), start=1):
        events += trial_of(folder, key, number, found)
        part = EvaluatedPart(rows=len(found.places), metrics=dict(found.raw))
        events[-2] = reported(key, 3, found.loss, part=part)
    told = separated(folder, events)
    assert [(each.key, each.rows, each.apart) for each in told.trials] == [("other", 16, True), ("third", 20, True)]
    assert [each.difference for each in told.trials] == pytest.approx([0.2, 0.3])
    assert [told.rows_of(each) for each in told.trials] == ["16 rows", "20 rows"]
    assert told.trials[0].as_json()["rows"] == 16


def test_a_first_report_on_a_part_is_a_gain_by_the_rows_that_both_have(folder: SweepFolder) -> None:
    """The default has all rows. What the base makes of a part decides nothing."""
    rng, first = np.random.default_rng(0), evaluation(1.0)
    noisy = tuple((np.asarray(first.row_losses) + rng.normal(0, 1, ROWS)).tolist())
    events: list[Event] = [begun()]
    whole = first.model_copy(update={"metrics": {"eval_loss": sum(noisy) / (10 * ROWS)}, "row_losses": noisy})
    folder.keep("k0", "rows", 3, {"eval_rows.json": json.dumps(whole.document()).encode()})
    events += [started("k0"), reported("k0", 3, whole.loss).model_copy(update={"is_gain": True})]
    for key, loss, shown, gain in (("k1", 0.5, 1.5, True), ("k2", 1.5, 0.5, False)):
        found = part_of(evaluation(loss), 16, shown)
        folder.keep(key, "rows", 3, {"eval_rows.json": json.dumps(found.document()).encode()})
        told = reported(key, 3, shown, part=EvaluatedPart(rows=16, metrics=dict(found.raw)))
        assert is_gain(folder, record([*events, started(key, 1)]), told) is gain
