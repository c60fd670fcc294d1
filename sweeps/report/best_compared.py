"""Compares a sweep's best trial in words: with the base, the default configuration and the next trials. Pure."""

from __future__ import annotations

from typing import Any

from sweeps.config.number_words import counted
from sweeps.record.events import TrialState
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, pareto, ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.statistics.comparison import Comparison, Separation
from sweeps.statistics.intervals import FEW_ROWS
from trainables.objective import Objective

SHOWN = 3
"""Most trials with their own line among those that cannot be told apart from the best one."""


def comparison_lines(record: SweepRecord, best: TrialRecord | None, separation: Separation | None) -> list[str]:
    """Names the Pareto set, and compares the best trial with one that is ahead, repeats, the base and the next ones."""
    lines = pareto_set(record)
    if best is not None:
        lines += further(record, best) + repeated(record, best) + against_base(record, best, separation)
        lines += against_next(record, best, separation)
    return lines


def in_words(record: SweepRecord, trial: TrialRecord) -> str:
    """Returns the trial and its best value, such as "t03, eval_loss 0.3121 at step 9"."""
    metric = record.judges(trial).metric
    return f"{label(trial.number)}, {metric} {trial.value(metric):.4f} at step {trial.best_step}"


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


def against_base(record: SweepRecord, best: TrialRecord, separation: Separation | None) -> list[str]:
    """Compares the best trial with the base without an adapter, in a line; empty if the base has no value."""
    objective = record.judges(best)
    if record.base is None or objective.metric not in record.base.metrics:
        return []
    start = objective.of(record.base.metrics)
    gain = objective.gain(start, best.value(objective.metric))
    compared = separation.base if separation is not None else None
    base = f"the base without an adapter ({start:.4f})"
    amount = objective.words(gain) + _share(objective, gain, start)
    if compared is not None and compared.apart is None and gain > 0:
        return [f"whether it is better than {base} cannot be told: {amount}, {compared.unknown}"]
    if compared is not None and compared.apart is False:
        verdict = "cannot be told apart from"
    else:
        verdict = "better than" if gain > 0 else "not better than"
    way_out = "" if verdict == "better than" else "; more steps (budget.steps_per_trial) or other values may help"
    return [f"{verdict} {base}: {amount}{evidence(compared, separation)}{way_out}"]


def against_default(record: SweepRecord, best: TrialRecord, name: str, separation: Separation | None) -> list[str]:
    """Compares the best trial with the default configuration, trial 0, in a line; empty if that is not possible.

    If `against_next` has a line about trial 0, this line says only its value.

    Args:
        name: name of the default configuration: "t00", or "t00, outside the space".
    """
    objective = record.judges(best)
    default = next((trial for trial in record.trials.values() if trial.number == 0), None)
    if default is None or default not in ranking(record) or record.judges(default) != objective:
        return []
    start = default.value(objective.metric)
    if default.trial_key == best.trial_key:
        return [f"the default configuration ({name}) is the best: {objective.metric} {start:.4f}"]
    until = f"stopped at step {default.step}" if default.state.value == "STOPPED" else counted(default.step, "step")
    if separation is not None and default.trial_key in _told_alone(separation):
        return [f"the default configuration ({name}, {until}) has {objective.metric} {start:.4f}"]
    compared = None if separation is None else separation.of(default.trial_key)
    own, of_best = (compared and compared.steps) or (default.best_step, best.best_step)
    start, value = default.value_at(own, objective.metric), best.value_at(of_best, objective.metric)
    gain = objective.gain(start, value)
    return [
        f"{label(best.number)} has {objective.metric} {value:.4f}, the default configuration "
        f"({name}, {until}) {start:.4f}: {objective.words(gain)}{_share(objective, gain, start)}"
        f"{where(compared, default, best)}{evidence(compared, separation)}"
    ]


def against_next(record: SweepRecord, best: TrialRecord, separation: Separation | None) -> list[str]:
    """Compares the best trial with the next ones, in lines: which cannot be told apart, and how far the nearest is."""
    if separation is None or not separation.trials:
        return []
    names = {key: label(trial.number) for key, trial in record.trials.items()}

    def amount(compared: Comparison) -> str:
        trial, other = record.trials[compared.key], record.objective.words(-compared.difference)
        return f"{other}{where(compared, trial, best)}{evidence(compared, separation, of_other=True)}"

    alike, ahead, nearest = _alike(separation), _ahead(separation), separation.trials[0]
    lines = [
        f"{names[each.key]} cannot be told apart from it: {amount(each)}{_more(each, separation)}"
        for each in alike[:SHOWN]
    ]
    if alike[SHOWN:]:
        lines.append(f"nor can {', '.join(names[each.key] for each in alike[SHOWN:])}")
    lines += [f"{names[each.key]} was ahead of it: {amount(each)}" for each in ahead]
    if nearest.apart and nearest not in ahead:
        lines.append(f"better than the next: {names[nearest.key]} is {amount(nearest)}")
    lines += of_seeds(separation)
    untold = [each for each in separation.trials if each.apart is None]
    if untold:
        which = ", ".join(names[each.key] for each in untold[:SHOWN]) + (" and others" if untold[SHOWN:] else "")
        lines.append(f"whether it is better than {which} cannot be told: {untold[0].unknown}")
    if alike or nearest.apart:
        beyond = separation.not_compared
        lines += [f"{beyond} more trials, further behind, were not compared"] if beyond else []
        lines += of_few_rows(separation)
    return lines


def _alike(separation: Separation) -> list[Comparison]:
    return [each for each in separation.trials if each.apart is False]


def _ahead(separation: Separation) -> list[Comparison]:
    """Returns the trials that are better than the best one at the compared steps, unless this may be chance."""
    return [each for each in separation.trials if each.apart is not False and each.difference < 0]


def _told_alone(separation: Separation) -> set[str]:
    """Returns the keys of the trials that have their own line in `against_next`."""
    next_apart = [each for each in separation.trials[:1] if each.apart]
    return {each.key for each in (*_alike(separation)[:SHOWN], *_ahead(separation), *next_apart)}


def notes(separation: Separation) -> list[str]:
    """Returns notes on other seeds and few rows; empty if there are no intervals."""
    return [*of_seeds(separation), *of_few_rows(separation)] if separation.is_told else []


def of_seeds(separation: Separation) -> list[str]:
    """Says whether the intervals include the effect of other seeds; empty if they do not and nothing is apart."""
    noise = separation.seeds
    if noise is not None:
        trials = counted(noise.freedom + noise.points, "trial")
        spread = f"a standard deviation of {noise.deviation:.4f} within a point, each at its best step"
        return [f"other seeds are counted in: {trials} of {counted(noise.points, 'point')} have {spread}"]
    if any(each.apart for each in separation.trials):
        return ["each point was trained with one seed: other seeds may change the order (searcher.repeats tries them)"]
    return []


def of_few_rows(separation: Separation) -> list[str]:
    """Warns that the intervals may be too narrow, if rows are few."""
    if not separation.is_narrow:
        return []
    return [
        f"{separation.rows_in_words} are few: where some differ far more than the rest, the intervals claim too "
        f"much; take {FEW_ROWS} or more (data.eval_examples); small differences take hundreds"
    ]


def _more(compared: Comparison, separation: Separation) -> str:
    """Says how many rows would tell a trial apart from the best one, or that rows would not; empty if unknown."""
    if 0 < abs(compared.difference) <= compared.of_seeds:
        return "; other seeds alone may make as much, and more rows would not tell"
    needed = compared.rows_needed(separation.rows)
    # A larger estimate would be only a guess.
    told = needed is not None and needed <= 50 * separation.rows
    return f"; a difference of this size takes about {needed} rows" if told else ""


def where(compared: Comparison | None, trial: TrialRecord, best: TrialRecord) -> str:
    """Says at which steps a trial is compared with the best one.

    Empty without a comparison, and if both are compared at their best steps, which are at one report point.
    """
    if compared is None or compared.steps is None:
        return ""
    own, of_best = compared.steps
    if compared.point is None:
        return f" at unequal steps ({label(trial.number)} at {own}, {label(best.number)} at {of_best})"
    if compared.steps == (trial.best_step, best.best_step):
        return ""
    at = f"at step {own}" if own == of_best else f"after {compared.point} examples"
    return f" {at}, where both were evaluated"


def _share(objective: Objective, gain: float, start: float) -> str:
    """Formats the gain as a percentage of the compared loss; empty without a gain, and if higher is better.

    A score is a share itself, so a percentage of a score would be read as a difference of scores.
    """
    return f" ({gain / abs(start):.0%})" if start and gain > 0 and objective.mode == "min" else ""


def evidence(compared: Comparison | None, separation: Separation | None, *, of_other: bool = False) -> str:
    """Formats what tells a difference from chance, to follow the difference; empty if nothing does.

    The interval is of how much better the better one is. With `of_other`, rows are counted for the other trial.
    """
    if compared is None or separation is None or compared.apart is None:
        return ""
    told = compared.evidence_in_words(
        separation.confidence, separation.rows_in_words, is_turned=compared.difference < 0, of_other=of_other
    )
    crosses = " (below 0: the other way round)" if compared.apart is False and compared.shown()[0] else ""
    return f", {told}{crosses}"
