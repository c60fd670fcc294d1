"""Describes a sweep's result in lines, for `launch` at its end and for commands that read its folder later. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from search_spaces.space import SearchSpace
from sweeps.config import points, searched_fields
from sweeps.config.model import SweepConfig
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import best_compared
from sweeps.report.best_compared import in_words
from sweeps.statistics.comparison import Separation
from trainables import catalogue
from trainables.grading import catalogue as grading
from trainables.inputs import json_text
from trainables.objective import EVAL_LOSS


def configuration(record: SweepRecord) -> tuple[SweepConfig, SearchSpace] | None:
    """Reads the sweep's configuration and space from its record; returns None if this version cannot read them."""
    try:
        config = SweepConfig.model_validate(json_text.parse(record.config or ""))
        return config, searched_fields.with_base(config, SearchSpace.parse(config.search_space))
    except ValueError:
        return None


def _default(record: SweepRecord, best: TrialRecord, separation: Separation | None) -> list[str]:
    found = configuration(record)
    if found is None or not found[0].searcher.start_with_default:
        return []
    name = "t00, outside the space" if points.outside(found[0].base, found[1]) else "t00"
    return best_compared.against_default(record, best, name, separation)


def best_lines(record: SweepRecord, selection: Selection, separation: Separation | None) -> list[str]:
    """Names and compares the best trial, or the best so far, or says why there is none."""
    best = selection.winner
    compared = best_compared.comparison_lines(record, best, separation)
    if best is None:
        return [f"best: {selection.why}", *compared, *_unclean_rows(record)]
    compared += _default(record, best, separation) + scores(record, best, separation) + _unclean_rows(record)
    return [f"best{' so far' if selection.so_far else ''}: {in_words(record, best)}", *compared]


def _unclean_rows(record: SweepRecord) -> list[str]:
    """Says how many rows to evaluate on, and how many test rows, the sweep has trained on or chosen by."""
    unclean = {
        "evaluation rows are also trained on": ("eval_rows", "eval_rows_in_train"),
        "test rows are also trained on or evaluated on": ("test_rows", "test_rows_in_train", "test_rows_in_eval"),
    }
    found = {words: [int(record.data.get(name, 0)) for name in names] for words, names in unclean.items()}
    return [f"{sum(some)} of {rows or '?'} {words}" for words, (rows, *some) in found.items() if any(some)]


def scores(record: SweepRecord, best: TrialRecord, separation: Separation | None) -> list[str]:
    """Says what the base, the default configuration and the best trial score, a line for each grader.

    A last line follows if the scheduler stopped trials by another metric than the objective.
    """
    found = configuration(record)
    if found is None or not found[0].evaluation.metrics:
        return []
    config, default = found[0], next((t for t in record.trials.values() if t.number == 0), None)
    others: dict[str, Mapping[str, float]] = {} if record.base is None else {"base": record.base.metrics}
    if config.searcher.start_with_default and default is not None and default.trial_key != best.trial_key:
        others[f"default configuration ({label(0)})"] = default.best_metrics
    given = dict.fromkeys(name for metrics in (*others.values(), best.best_metrics) for name in metrics)
    verdicts = dict.fromkeys(separation.counted if separation else (), "with 1")
    verdicts |= grading.verdicts(config.evaluation)
    answered = 0 if record.base is None else record.base.answered
    shown = {*config.evaluation.main_among(given), *grading.verdicts(config.evaluation)}
    lines = [
        _score_line(name, best, others, verdicts.get(name), answered if name in verdicts else 0)
        for name in given
        if name in shown
    ]
    if config.stops != record.objective and config.scheduler.compares:
        lowest = ranking(record, config.stops)[0]
        value = f"{lowest.value(config.stops.metric):.4f}"
        lines.append(
            f"trials were stopped by {config.stops.metric}, and {record.objective.metric} chose the best of those that "
            f"were scored; {label(lowest.number)} has the lowest {config.stops.metric} ({value})"
        )
    return lines


def _score_line(
    name: str, best: TrialRecord, others: Mapping[str, Mapping[str, float]], verdict: str | None, answered: int
) -> str:
    """Says what the best trial and others score by one metric. Counts right answers if `answered` is above 0."""
    own = best.best_metrics.get(name)
    told = f"{name}: {_score(f'best ({label(best.number)})', own, answered)}"
    if answered and own is not None:
        told += f" of {answered} answers {verdict}"
    rest = ", ".join(_score(who, metrics.get(name), answered) for who, metrics in others.items())
    return f"{told} ({rest})" if rest else told


def _score(who: str, value: float | None, answered: int) -> str:
    """Formats a score or the number of right answers. Trials are scored at the last step; the best may lack a score."""
    if value is None:
        return f"{who} not scored"
    return f"{who} {value * answered:.0f}" if answered else f"{who} {value:.4f}"


def base_without_answers(record: SweepRecord) -> str:
    """Says what is known of a base without answers."""
    loss = None if record.base is None else record.base.metrics.get(EVAL_LOSS)
    known = "" if loss is None else f"{EVAL_LOSS} {loss:.4f}; "
    return f"base: {known}no answers are here: graders in evaluation.metrics have it answer the rows"


def kept_of_best(selection: Selection, folder: Path, trainable: str) -> tuple[str, Path] | None:
    """Returns what is kept of the best trial, in words, and its folder; None if nothing is kept."""
    best, so_far = selection.winner, " so far" if selection.so_far else ""
    if best is None or best.adapter is None:
        return None
    if catalogue.has_adapters(trainable):
        return f"the best adapter{so_far}", folder / best.adapter / "adapter"
    return f"the best trial's folder{so_far}", (folder / best.adapter).parent
