"""What is said of a sweep whose answers are scored: at its end, while it runs, and of trials without a score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sweep_events import base, ended, record, reported, started
from sweep_events import scored as finalist
from sweep_files import toy

from sweeps.record.events import DataPrepared, Event, SweepEnded, SweepStarted, TrialReported, TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
from sweeps.report.best_compared import best_lines, in_words
from sweeps.report.live_table import describe
from sweeps.statistics.comparison import Pair, Separation, separate
from trainables.contract import Evaluation
from trainables.objective import Objective

STOPPED, COMPLETED = TrialState.STOPPED, TrialState.COMPLETED
BASE = base(4.5).model_copy(update={"metrics": {"eval_loss": 4.5, "exact_match": 0.125}, "answered": 32})
BY_SCORE: dict[str, Any] = {
    "objective": {"metric": "exact_match", "mode": "max"},
    "scheduler": {"metric": "eval_loss"},
}


def begun(metrics: Iterable[str] = ("exact_match",), when: str = "last", **sections: Any) -> SweepStarted:
    config, _ = toy(evaluation={"metrics": list(metrics), "when": when}, **sections)
    return SweepStarted(sweep_id="toy-1", time=0.0, config=config.model_dump_json())


def scored(key: str, step: int, best: tuple[int, float] | None = None, /, **metrics: float) -> TrialReported:
    """A report with scores; at an earlier best step the trial had only its loss."""
    more: dict[str, Any] = {"metrics": metrics} | ({"best_metrics": metrics} if best is None else {})
    return reported(key, step, metrics["eval_loss"], best=best, **more)


EARLY: list[Event] = [
    begun(**BY_SCORE),
    BASE,
    *(started(key, number) for number, key in enumerate("abc")),
    *(reported(key, 3, loss) for key, loss in (("a", 2.0), ("b", 1.5), ("c", 1.9))),
]
WHOLE: list[Event] = [*EARLY, scored("a", 9, eval_loss=1.0, exact_match=0.5)]
WHOLE += [scored("b", 9, eval_loss=1.25, exact_match=0.75), ended("a", COMPLETED), ended("b", COMPLETED)]
WHOLE += [ended("c", STOPPED)]


def answer(found: SweepRecord, separation: Separation | None = None) -> list[str]:
    over = found.apply(SweepEnded(time=9.0, reason="finished"))
    return best_lines(over, choose(over), separation)


def test_the_answer_says_what_base_default_and_best_score_and_that_the_loss_stopped_trials() -> None:
    best, *lines = answer(record(WHOLE))
    assert best == "best: t01, exact_match 0.7500 at step 9"
    assert lines[0] == "t01 is better than the base without an adapter (0.1250): exact_match 0.6250 higher"
    assert lines[-2:] == [
        "exact_match: best (t01) 24 of 32 answers right (base 4, default configuration (t00) 16)",
        "trials were stopped by eval_loss, and exact_match chose the best of those that were scored; "
        "t00 has the lowest eval_loss (1.0000)",
    ]


def test_rows_that_are_not_clean_are_told_once_more_at_the_end() -> None:
    rows: dict[str, Any] = {"eval_rows": 60, "test_rows": 80, "eval_rows_in_train": 3}
    rows |= {"test_rows_in_train": 4, "test_rows_in_eval": 1}
    told = [
        "3 of 60 evaluation rows are also trained on",
        "5 of 80 test rows are also trained on or evaluated on",
    ]
    for events in (WHOLE, EARLY[:1]):
        prepared = DataPrepared(time=0.5, summary=rows)
        assert answer(record([events[0], prepared, *events[1:]]))[-2:] == told
        clean = DataPrepared(time=0.5, summary={"eval_rows": 60, "test_rows": 80})
        assert not any("also trained on" in line for line in answer(record([events[0], clean, *events[1:]])))


def test_a_graders_verdicts_are_counted_below_its_main_metric_and_other_scores_are_numbers() -> None:
    metrics = {
        "eval_loss": 1.0,
        **{"json_fields": 0.9, "json_fields_recall": 0.8, "json_fields_exact": 0.75, "json_valid": 1.0},
        **{"lengths_words": 3.0, "of_a_foreign_trainable": 0.5},
    }
    start = begun(["json_fields", "json_valid", "mine:lengths", "of_a_foreign_trainable"])
    of_base = BASE.model_copy(update={"metrics": dict.fromkeys(metrics, 0.0)})
    whole = record([start, of_base, started("a", 0), scored("a", 9, **metrics), ended("a", COMPLETED)])
    assert answer(whole)[-5:] == [
        "json_fields: best (t00) 0.9000 (base 0.0000)",
        "json_fields_exact: best (t00) 24 of 32 answers right (base 0)",
        "json_valid: best (t00) 32 of 32 answers valid (base 0)",
        "lengths_words: best (t00) 3.0000 (base 0.0000)",
        "of_a_foreign_trainable: best (t00) 0.5000 (base 0.0000)",
    ]


def test_a_function_whose_rows_are_0_or_1_in_each_evaluation_is_told_as_counts() -> None:
    start = begun(["mine:whole", "mine:half"])
    of_base = BASE.model_copy(update={"metrics": {"eval_loss": 2.0, "whole": 0.25, "half": 0.0}, "answered": 4})
    own = {"eval_loss": 1.0, "whole": 0.5, "half": 0.25}
    stopped: list[Event] = [started("b", 1), reported("b", 3, 1.5), ended("b", STOPPED)]
    whole = record([start, of_base, started("a", 0), scored("a", 9, **own), ended("a", COMPLETED), *stopped])
    rows: dict[str, Any] = {"metrics": {"eval_loss": 1.0}, "row_losses": (1.0,) * 4, "row_tokens": (1,) * 4}
    best = Evaluation(row_values={"whole": (1.0, 0.0, 1.0, 0.0), "half": (0.5, 0.5, 0.0, 0.0)}, **rows)
    its = Evaluation(row_values={"whole": (1.0, 0.0, 0.0, 0.0), "half": (0.0,) * 4}, **rows)
    unscored = Evaluation(**rows)  # of the trial that was stopped before its last step
    told = separate(Objective(metric="eval_loss"), [Pair("b", 0.0, unscored, best)], Pair("base", 1.0, its, best), 2)
    assert answer(whole, told)[-2:] == [
        "whole: best (t00) 2 of 4 answers with 1 (base 1)",
        "half: best (t00) 0.2500 (base 0.0000)",
    ]


def test_a_trial_that_was_not_scored_is_told_by_its_loss() -> None:
    early = record(EARLY)
    ahead = choose(early).winner
    assert ahead is not None and in_words(early, ahead) == "t01, eval_loss 1.5000 at step 3"
    last = record([*EARLY, *(ended(key, STOPPED) for key in "abc")])
    best, *lines = answer(last)
    assert best == "best: t01, eval_loss 1.5000 at step 3"
    assert not any("nan" in line for line in lines)
    assert "eval_loss 1.5000" in trial_tables.ending(last.trials["b"], "exact_match")
    rose = scored("b", 9, (3, 1.5), eval_loss=1.75, exact_match=0.75)
    lines = answer(record([begun(), *EARLY[1:], rose, ended("b", COMPLETED), ended("a", STOPPED), ended("c", STOPPED)]))
    assert "exact_match: best (t01) not scored (base 4, default configuration (t00) not scored)" in lines


def test_tables_and_lines_show_the_loss_where_a_trial_has_no_score() -> None:
    found = record(WHOLE)
    table = trial_tables.cells(found, trial_tables.order(found))
    assert table.heads == ("trial", "steps", "best exact_match", "at", "eval_loss", "state")
    assert [row[0] for row in table.rows] == ["t01", "t00", "t02", "base"]
    assert [row[2] for row in table.rows] == ["0.7500", "0.5000", "-", "0.1250"]
    whole = record([*WHOLE[:-1], scored("c", 9, eval_loss=1.0, exact_match=0.25), ended("c", COMPLETED)])
    assert "eval_loss" not in trial_tables.cells(whole, trial_tables.order(whole)).heads
    assert describe(WHOLE[8], found) == ["t00 step 9: exact_match 0.5000 (its best)"]
    worse = reported("a", 6, 2.5, best=(3, 2.0))
    assert describe(worse, record([*EARLY, worse])) == ["t00 step 6: eval_loss 2.5000 (its best: 2.0000)"]


def test_where_finalists_are_scored_it_is_told_why_the_others_have_no_score() -> None:
    start, score = begun(when="best", **BY_SCORE), finalist("b", 3, exact_match=0.75)
    found = record([start, *EARLY[1:], *(ended(key, STOPPED) for key in "abc"), score])
    assert trial_tables.notes(found) == ["-: not scored: finalists are, when the sweep ends (evaluation.when: best)"]
    assert answer(found)[0] == "best: t01, exact_match 0.7500 at step 3"
