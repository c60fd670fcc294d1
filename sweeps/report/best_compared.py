"""Compares a sweep's best trial in words: with the base, the default configuration and the next trials. Pure."""

from __future__ import annotations

from sweeps.planning.number_words import counted
from sweeps.record.events import TrialState
from sweeps.record.paired_bootstrap import FEW_ROWS
from sweeps.record.run_names import label
from sweeps.record.selection import Selection, leader, pareto, rank
from sweeps.record.separation import Compared, Separation
from sweeps.record.sweep_record import SweepRecord

SHOWN = 3
"""How many trials that cannot be told apart from the best get a line of their own."""


def of_best(record: SweepRecord, selection: Selection, separation: Separation | None) -> list[str]:
    """Lines that compare the best trial with those that have not ended, the base and the next ones."""
    lines = [
        pareto_set(record),
        unfinished(record, selection),
        against_base(record, selection, separation),
        repeated(record, selection),
        *against_next(record, selection, separation),
    ]
    return [line for line in lines if line is not None]


def without_winner(record: SweepRecord, selection: Selection, may_go_on: bool) -> str:
    """Why there is no best trial; of a sweep that was cut short, the best one so far.

    Args:
        may_go_on: whether the sweep was cut short, and can be resumed.
    """
    best, metric = leader(record.trials.values(), record.objective), record.objective.metric
    if not may_go_on or best is None:
        return f"best: {selection.why}"
    value = f"{metric} {best.value(metric):.4f} at step {best.best_step}"
    return f"best so far: {label(best.number)}, {value}: trials were interrupted, and none has completed"


def pareto_set(record: SweepRecord) -> str | None:
    """The trials of the Pareto set, where there are several objectives."""
    if len(record.objectives) == 1:
        return None
    metrics = " and ".join(objective.metric for objective in record.objectives)
    names = ", ".join(label(trial.number) for trial in pareto(record.trials.values(), record.objectives))
    return f"Pareto set of {metrics}: {names}; qsweep promote asks for one of them (--trial) or a metric (--metric)"


def unfinished(record: SweepRecord, selection: Selection) -> str | None:
    """The trials that are better than the best but have not ended: they may still win."""
    if selection.winner is None:
        return None
    objective = record.objective
    value = selection.winner.value(objective.metric)
    better = [
        f"{label(trial.number)} {trial.value(objective.metric):.4f}"
        for trial in record.trials.values()
        if not trial.state.is_final and objective.is_better(trial.value(objective.metric), value)
    ]
    word = "lower" if objective.mode == "min" else "higher"
    return f"the best of the trials that have ended; {word} so far: {', '.join(better)}" if better else None


def repeated(record: SweepRecord, selection: Selection) -> str | None:
    """What the best point came to with other seeds."""
    if selection.winner is None:
        return None
    metric = record.objective.metric
    again = [
        f"{label(trial.number)} {trial.value(metric):.4f}"
        for trial in record.trials.values()
        if trial.repeats == selection.winner.trial_key and trial.state is TrialState.COMPLETED
    ]
    return f"the same point with other seeds: {', '.join(again)}" if again else None


def against_base(record: SweepRecord, selection: Selection, separation: Separation | None = None) -> str | None:
    """The best trial compared with the base without an adapter, where every trial starts from."""
    objective = record.objective
    if selection.winner is None or record.base is None or objective.metric not in record.base.metrics:
        return None
    start = objective.of(record.base.metrics)
    gain = objective.gain(start, selection.winner.value(objective.metric))
    compared = separation.base if separation is not None else None
    base = f"the base without an adapter ({start:.4f})"
    amount = objective.words(gain) + (_share(gain, start) if gain > 0 else "")
    if compared is not None and compared.apart is None and gain > 0:
        return f"whether it is better than {base} cannot be told: {amount}, {compared.unknown}"
    if compared is not None and compared.apart is False:
        verdict = "cannot be told apart from"
    else:
        verdict = "better than" if gain > 0 else "not better than"
    return f"{verdict} {base}: {amount}{span(compared, separation, negate=gain <= 0)}"


def against_default(
    record: SweepRecord,
    selection: Selection,
    starts_with_default: bool,
    is_outside: bool = False,
    separation: Separation | None = None,
) -> str | None:
    """The best trial compared with the default configuration, which is trial 0.

    Args:
        record: the sweep's.
        selection: its best trial.
        starts_with_default: whether trial 0 is the default configuration.
        is_outside: whether that lies outside the search space.
        separation: of the best trial.
    """
    name = "t00, outside the space" if is_outside else "t00"
    objective = record.objective
    default = next((t for t in record.trials.values() if t.number == 0), None) if starts_with_default else None
    if selection.winner is None or default is None or not rank([default], objective):
        return None
    start = default.value(objective.metric)
    if default.trial_key == selection.winner.trial_key:
        return f"the default configuration ({name}) is the best: {objective.metric} {start:.4f}"
    value = selection.winner.value(objective.metric)
    gain = objective.gain(start, value)
    until = f"stopped at step {default.step}" if default.state.value == "STOPPED" else counted(default.step, "step")
    return (
        f"{label(selection.winner.number)} has {objective.metric} {value:.4f}, the default configuration "
        f"({name}, {until}) {start:.4f}: {objective.words(gain)}{_share(gain, start)}"
        f"{span(separation.of(default.trial_key), separation) if separation is not None else ''}"
    )


def against_next(record: SweepRecord, selection: Selection, separation: Separation | None) -> list[str]:
    """Which of the next trials the best one cannot be told apart from, or that it can from all of them."""
    if selection.winner is None or separation is None or not separation.trials:
        return []
    names = {key: label(trial.number) for key, trial in record.trials.items()}
    alike = [each for each in separation.trials if each.apart is False]
    lines = [_alike(names[each.key], each, separation) for each in alike[:SHOWN]]
    if alike[SHOWN:]:
        lines.append(f"nor can {', '.join(names[each.key] for each in alike[SHOWN:])}")
    nearest = separation.trials[0]
    if nearest.apart:
        higher = f"{nearest.difference:.4f} higher{span(nearest, separation)}"
        lines.append(f"better than the next: {names[nearest.key]} is {higher}")
    seeds = of_seeds(separation)
    lines += [] if seeds is None else [seeds]
    untold = [each for each in separation.trials if each.apart is None]
    if untold:
        which = ", ".join(names[each.key] for each in untold[:SHOWN]) + (" and others" if untold[SHOWN:] else "")
        lines.append(f"whether it is better than {which} cannot be told: {untold[0].unknown}")
    if separation.not_compared and (alike or nearest.apart):
        lines.append(f"{separation.not_compared} more trials, further behind, were not compared")
    few = of_few_rows(separation)
    lines += [few] if few is not None and (alike or nearest.apart) else []
    return lines


def of_seeds(separation: Separation) -> str | None:
    """Whether the intervals count what another seed would change; None where nothing is apart."""
    if separation.seeds is not None:
        noise = separation.seeds
        trials = counted(noise.freedom + noise.points, "trial")
        return (
            f"other seeds are counted in: {trials} of {counted(noise.points, 'point')} have a standard deviation of "
            f"{noise.deviation:.4f} within a point"
        )
    if any(each.apart for each in separation.trials):
        return "a difference beyond chance on these rows may still be one of seeds: those are not compared"
    return None


def of_few_rows(separation: Separation) -> str | None:
    """Says that the intervals are too narrow to be trusted, where they are."""
    if not separation.is_narrow:
        return None
    few = f"{separation.rows} evaluation rows are few, and the intervals claim too much"
    return f"{few}: evaluate on {FEW_ROWS} or more (data.eval_examples)"


def _alike(name: str, compared: Compared, separation: Separation) -> str:
    needed = compared.rows_needed(separation.rows)
    # A larger estimate would be no more than a guess.
    told = needed is not None and needed <= 50 * separation.rows
    more = f"; a difference of this size takes about {needed} rows" if told else ""
    if 0 < compared.difference <= compared.of_seeds:
        more = "; other seeds alone may make as much, and more rows would not tell"
    return f"{name} cannot be told apart from it: {compared.difference:.4f} higher{span(compared, separation)}{more}"


def _share(gain: float, start: float) -> str:
    """The gain as a percentage of what it is compared with."""
    return f" ({gain / abs(start):.0%})" if start else ""


def span(compared: Compared | None, separation: Separation | None, negate: bool = False) -> str:
    """The interval in words, to follow a difference; nothing where there is none.

    Args:
        compared: a trial, or the base, against the first trial of the separation.
        separation: has the interval's confidence.
        negate: what is said is how much higher the first one is.
    """
    if compared is None or separation is None or compared.low is None or compared.high is None:
        return ""
    low, high = (-compared.high, -compared.low) if negate else (compared.low, compared.high)
    return f", {separation.confidence:.1%} interval {low:.4f} to {high:.4f} on {separation.rows} rows"
