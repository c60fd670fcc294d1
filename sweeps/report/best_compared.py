"""Says which trial of a sweep is the best, and compares trials with others and with the base, in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces.space import SearchSpace
from sweeps.config import bases, searched_fields
from sweeps.config.model import SweepConfig
from sweeps.config.number_words import counted
from sweeps.record.events import TrialState
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, pareto, ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report import bases_compared
from sweeps.statistics.comparison import Comparison, Separation
from trainables import catalogue
from trainables.grading import catalogue as grading
from trainables.inputs import json_text
from trainables.objective import EVAL_LOSS, FEW_ROWS, Objective
from trainables.scoring.requests import BASE
from trainables.specs import TrialSpec, short_names

SHOWN = 3
"""Most trials with their own line among those that cannot be told apart from the best one."""


def configuration(record: SweepRecord) -> tuple[SweepConfig, SearchSpace] | None:
    """Reads the sweep's configuration and space from its record; returns None if this version cannot read them."""
    try:
        config = SweepConfig.model_validate(json_text.parse(record.config or ""))
        return config, searched_fields.with_base(config, SearchSpace.parse(config.search_space))
    except ValueError:
        return None


def best_lines(record: SweepRecord, selection: Selection, separation: Separation | None) -> list[str]:
    """Names and compares the best trial, or the best so far, or says why there is none."""
    best, found, lines = selection.winner, configuration(record), pareto_set(record)
    if best is None:
        return [f"best: {selection.why}", *lines, *_unclean_rows(record)]
    config = None if found is None else found[0]
    has_default = config is not None and config.searcher.start_with_default
    lines += further(record, best) + repeated(record, best) + comparisons(record, best, separation, has_default)
    lines += [] if found is None else _of_bases(record, best, separation, bases.of(*found))
    lines += [] if config is None else scores(record, best, config, separation)
    return [f"best{' so far' if selection.so_far else ''}: {in_words(record, best)}", *lines, *_unclean_rows(record)]


def in_words(record: SweepRecord, trial: TrialRecord) -> str:
    """Returns the trial and its best value, such as "t03, eval_loss 0.3121 at step 9"."""
    metric = record.judges(trial).metric
    part, of = trial.best_part, record.data.get("eval_rows", "?")
    on = "" if part is None else f", by {part.rows} of {of} evaluation rows"
    return f"{label(trial.number)}, {metric} {trial.value(metric):.4f} at step {trial.best_step}{on}"


def best_json(record: SweepRecord, selection: Selection, **more: Any) -> dict[str, Any] | None:
    """Returns the best trial for a JSON line, with `more` entries; None if there is none."""
    trial = selection.winner
    if trial is None:
        return None
    metric = record.judges(trial).metric
    return {
        "trial_key": trial.trial_key,
        "metric": metric,
        "value": trial.value(metric),
        "step": trial.best_step,
        "params": dict(trial.params),
        **({} if trial.best_part is None else {"eval_rows": trial.best_part.rows}),
        **selection.mark,
        **more,
    }


def pareto_set(record: SweepRecord) -> list[str]:
    """Names the trials of the Pareto set in a line; empty with one objective."""
    if len(record.objectives) == 1:
        return []
    metrics = " and ".join(objective.metric for objective in record.objectives)
    names = ", ".join(label(trial.number) for trial in pareto(record))
    return [f"Pareto set of {metrics}: {names}; qsweep promote asks for one of them (--trial) or a metric (--metric)"]


def further(record: SweepRecord, best: TrialRecord) -> list[str]:
    """Names a trial with a better value than the best so far, which has gone further alone: see `ranking`."""
    objective = record.judges(best)
    value = best.value(objective.metric)
    return [
        f"{in_words(record, trial)} has gone further alone: trials that have not ended are compared after equal steps"
        for trial in ranking(record)
        if objective.is_better(trial.value(objective.metric), value)
    ]


def repeated(record: SweepRecord, best: TrialRecord) -> list[str]:
    """Says the values of the best point with other seeds."""
    metric = record.judges(best).metric
    again = [
        f"{label(trial.number)} {trial.value(metric):.4f}"
        for trial in record.trials.values()
        if trial.repeats == best.trial_key and trial.state is TrialState.COMPLETED
    ]
    return [f"the same point with other seeds: {', '.join(again)}"] if again else []


def comparisons(record: SweepRecord, best: TrialRecord, separation: Separation | None, has_default: bool) -> list[str]:
    """Compares the best trial with the base, the next one, those alike, those that were ahead, and the default."""
    objective, name, lines = record.judges(best), label(best.number), []
    value, base = best.value(objective.metric), record.base_of(best)
    if base is not None and objective.metric in base.metrics:
        start = objective.of(base.metrics)
        found = (separation and separation.base) or Comparison(BASE, objective.gain(start, value))
        which = f" {short_names(record.bases)[base.base]}" if len(record.bases) > 1 else ""
        line = verdict(name, f"the base{which} without an adapter ({start:.4f})", objective, found, separation)
        is_better = found.difference > 0 and found.apart is not False
        lines.append(line if is_better else f"{line}; more steps (budget.steps_per_trial) or other values may help")
    told = () if separation is None else separation.trials
    alike = [each for each in told if each.apart is False]
    ahead = [each for each in told if each.apart is not False and each.difference < 0]
    chosen = {each.key: each for each in (*told[:1], *alike[:SHOWN], *ahead)}
    default = next((trial for trial in ranking(record) if trial.number == 0 and has_default), None)
    if default is not None and default.trial_key == best.trial_key:
        lines.append(f"{name} is the default configuration")
    elif default is not None and record.judges(default) == objective:
        gain = objective.gain(default.value(objective.metric), value)
        known = {each.key: each for each in told}.get(default.trial_key, Comparison(default.trial_key, gain))
        chosen.setdefault(default.trial_key, known)
    for key, found in chosen.items():
        trial = record.trials[key]
        own, of_best = found.steps or (trial.best_step, best.best_step)
        other = f"{label(trial.number)} (step {own}{', the default configuration' if trial == default else ''})"
        more = _more(found, separation) if separation is not None and found.apart is False else ""
        lines.append(verdict(f"{name} (step {of_best})", other, objective, found, separation) + more)
    if alike[SHOWN:]:
        lines.append(f"nor from {', '.join(label(record.trials[each.key].number) for each in alike[SHOWN:])}")
    return lines + ([] if separation is None else notes(separation))


def _of_bases(
    record: SweepRecord, best: TrialRecord, separation: Separation | None, specs: Sequence[TrialSpec]
) -> list[str]:
    """Compares the best trial of each base with the best of all, at equal steps; empty with one base."""
    if len(specs) == 1:
        return []
    objective, known = record.judges(best), bases_compared.found(record, specs)
    verdicts = {}
    for each in known:
        if each.best is not None and each.best.trial_key != best.trial_key:
            gain = objective.gain(each.best.value(objective.metric), best.value(objective.metric))
            found = separation.of(each.best.trial_key) if separation is not None else None
            found = found or Comparison(each.best.trial_key, gain)
            own, of_best = found.steps or (each.best.best_step, best.best_step)
            names = f"{label(best.number)} (step {of_best})", f"{label(each.best.number)} (step {own})"
            verdicts[each.best.trial_key] = verdict(*names, objective, found, separation)
    return bases_compared.lines(known, verdicts)


def verdict(first: str, other: str, objective: Objective, found: Comparison, separation: Separation | None) -> str:
    """Says in a line how the trial `first` compares with another one. The interval is of how much the better gains.

    Without a separation, the line says nothing of chance.
    """
    gain = found.difference
    if not math.isfinite(gain):
        why = found.unknown or f"not both have {objective.metric} yet"
        return f"{first} cannot be compared with {other}: {why}"
    amount = f"{objective.metric} {objective.words(gain)}"
    if found.steps is not None and found.steps[0] != found.steps[1]:
        amount += " at unequal steps" if found.point is None else f" after {found.point} examples"
    if found.unknown:
        return f"whether {first} is better than {other} cannot be told: {amount}, {found.unknown}"
    word = "is better than" if gain > 0 else "is worse than" if gain < 0 else "is equal to"
    if found.apart is None or separation is None:
        return f"{first} {word} {other}: {amount}"
    told = found.evidence_in_words(separation.confidence, separation.rows_of(found), is_turned=gain < 0)
    if found.apart:
        return f"{first} {word} {other}: {amount}, {told}"
    behind = (other if gain >= 0 else first).partition(" (")[0]
    crosses = f" (below 0: {behind} would be better)" if found.shown()[0] else ""
    return f"{first} cannot be told apart from {other}: {amount}, {told}{crosses}"


def notes(separation: Separation) -> list[str]:
    """Returns notes on other seeds and few rows; empty if there are no intervals."""
    if not separation.is_told:
        return []
    lines, noise = [], separation.seeds
    if noise is not None:
        trials = counted(noise.freedom + noise.points, "trial")
        spread = f"a standard deviation of {noise.deviation:.4f} within a point, each at its best step"
        lines.append(f"other seeds are counted in: {trials} of {counted(noise.points, 'point')} have {spread}")
    elif any(each.apart for each in separation.trials):
        once = "each point was trained with one seed: other seeds may change the order (searcher.repeats tries them)"
        lines.append(once)
    if separation.is_narrow:
        lines.append(
            f"{separation.rows_in_words} are few: where some differ far more than the rest, the intervals claim too "
            f"much; take {FEW_ROWS} or more (data.eval_examples); small differences take hundreds"
        )
    return lines


def _more(found: Comparison, separation: Separation) -> str:
    """Says how many rows would tell a trial apart from the best one, or that rows would not; empty if unknown."""
    if 0 < abs(found.difference) <= found.of_seeds:
        return "; other seeds alone may make as much, and more rows would not tell"
    rows = found.rows or separation.rows
    needed = found.rows_needed(rows)
    # A larger estimate would be only a guess.
    told = needed is not None and needed <= 50 * rows
    return f"; a difference of this size takes about {needed} rows" if told else ""


def scores(record: SweepRecord, best: TrialRecord, config: SweepConfig, separation: Separation | None) -> list[str]:
    """Says what the best trial, the base and the default configuration score, a line for each grader.

    A last line follows if the scheduler stopped trials by another metric than the objective.
    """
    if not config.evaluation.metrics:
        return []
    given: dict[str, Mapping[str, float]] = {f"best ({label(best.number)})": best.best_metrics}
    base = record.base_of(best)
    if base is not None:
        given["base"] = base.metrics
    for trial in record.trials.values():
        if trial.number == 0 and config.searcher.start_with_default and trial.trial_key != best.trial_key:
            given[f"default configuration ({label(0)})"] = trial.best_metrics
    names = dict.fromkeys(name for metrics in (*list(given.values())[1:], best.best_metrics) for name in metrics)
    of_graders = grading.verdicts(config.evaluation)
    verdicts = {**dict.fromkeys(separation.counted if separation else (), "with 1"), **of_graders}
    answered = 0 if base is None else base.answered
    lines = []
    for name in names:
        if name not in of_graders and name not in config.evaluation.main_among(names):
            continue
        counts = answered if name in verdicts else 0
        told = [f"{who} {_score(metrics.get(name), counts)}" for who, metrics in given.items()]
        of = f" of {counts} answers {verdicts[name]}" if counts and name in best.best_metrics else ""
        lines.append(f"{name}: {told[0]}{of}" + (f" ({', '.join(told[1:])})" if told[1:] else ""))
    if config.stops != record.objective and config.scheduler.compares:
        lowest = ranking(record, config.stops)[0]
        value = f"{lowest.value(config.stops.metric):.4f}"
        lines.append(
            f"trials were stopped by {config.stops.metric}, and {record.objective.metric} chose the best of those that "
            f"were scored; {label(lowest.number)} has the lowest {config.stops.metric} ({value})"
        )
    return lines


def _score(value: float | None, answered: int) -> str:
    """Formats a score, or the number of right answers. Trials are scored at the last step; the best may lack one."""
    return "not scored" if value is None else f"{value * answered:.0f}" if answered else f"{value:.4f}"


def _unclean_rows(record: SweepRecord) -> list[str]:
    """Says how many rows to evaluate on, and how many test rows, the sweep has trained on or chosen by."""
    unclean = {
        "evaluation rows are also trained on": ("eval_rows", "eval_rows_in_train"),
        "test rows are also trained on or evaluated on": ("test_rows", "test_rows_in_train", "test_rows_in_eval"),
    }
    found = {words: [int(record.data.get(name, 0)) for name in names] for words, names in unclean.items()}
    return [f"{sum(some)} of {rows or '?'} {words}" for words, (rows, *some) in found.items() if any(some)]


def kept_of_best(selection: Selection, folder: Path, trainable: str) -> tuple[str, Path] | None:
    """Returns what is kept of the best trial, in words, and its folder; None if nothing is kept."""
    best, so_far = selection.winner, " so far" if selection.so_far else ""
    if best is None or best.adapter is None:
        return None
    if catalogue.has_adapters(trainable):
        return f"the best adapter{so_far}", folder / best.adapter / "adapter"
    return f"the best trial's folder{so_far}", (folder / best.adapter).parent


def base_without_answers(record: SweepRecord) -> str:
    """Says what is known of a base without answers."""
    loss = None if record.base is None else record.base.metrics.get(EVAL_LOSS)
    known = "" if loss is None else f"{EVAL_LOSS} {loss:.4f}; "
    return without_answers(BASE, known)


def without_answers(name: str, known: str = "") -> str:
    """Says that a trial, or the base, has no answers here, and how it gets some."""
    return f"{name}: {known}no answers are here: graders in evaluation.metrics have it answer the rows"
