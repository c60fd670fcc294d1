"""The facts about a sweep, for the terminal, the page and JSON lines: what it took, and what it was made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import yaml

from sweeps.config.number_words import counted, duration, limit, size
from sweeps.record.spent import Spent, planned, spent
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
from sweeps.statistics.comparison import Separation
from sweeps.statistics.confidence import percent
from trainables.inputs import json_text
from trainables.objective import COSTS, MEANINGS, Objective

WHY = "why it ended"
"""Head of the column with the reason of a trial's end."""
_DATA = {
    "train_rows": ("rows to train on", ""),
    "eval_rows": ("rows to evaluate on", "the same ones for every trial"),
    "test_rows": ("rows to test on", "promotion alone sees them"),
    "train_tokens": ("tokens to train on", "of all rows to train on, once through"),
    "labelled_tokens": ("tokens in the loss", "the part of the tokens to train on that are completions"),
    "longest_row": ("longest row", "in tokens"),
    "truncated_rows": ("truncated rows", "longer than data.max_length, and cut on the right"),
    "dropped_rows": ("dropped rows", "left without a completion token"),
    "empty_rows": ("rows with an empty answer", ""),
    "missing_value_rows": ("rows with a missing value", "an empty answer, or a word such as nan, null or None"),
    "repeated_rows": ("repeated rows", "rows to train on that repeat an earlier row"),
    "eval_rows_in_train": ("evaluation rows that are trained on", "they make the evaluation look better than it is"),
    "test_rows_in_train": ("test rows that are trained on", ""),
    "test_rows_in_eval": ("test rows that are evaluated on", "they chose the best trial, so they are no test of it"),
    "fingerprint": ("fingerprint of the tokens", "equal rows, templates and tokenizers have equal ones"),
}
"""Field of the data's summary -> its name and its meaning."""
_ALWAYS = ("train_rows", "eval_rows", "fingerprint")


class Fact(NamedTuple):
    """A value with its name, and its meaning if the name alone does not say it."""

    name: str
    value: str
    """Empty if the JSON line alone has the fact."""
    meaning: str = ""
    numbers: Mapping[str, Any] = {}
    """Entries of the JSON line."""

    @classmethod
    def of(cls, name: str, value: str, **numbers: Any) -> Fact:
        """Returns a fact with these entries of the JSON line."""
        return cls(name, value, "", numbers)


def lines_of(facts: Iterable[Fact], indent: str = "") -> list[str]:
    """Returns a line for each fact that has a value."""
    return [f"{indent}{fact.name:<10}{fact.value}" for fact in facts if fact.value]


def raw_config(record: SweepRecord) -> dict[str, Any]:
    """Returns the resolved configuration as plain data; empty before the sweep has begun."""
    config: dict[str, Any] = json_text.parse(record.config or "{}")
    return config


def as_yaml(config: Mapping[str, Any]) -> str:
    """Formats the configuration as YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110)


def unit(objective: Objective) -> str:
    """Says what the metric of an objective is, and which direction is better."""
    direction = "lower is better" if objective.mode == "min" else "higher is better"
    meaning = MEANINGS.get(objective.metric)
    return direction if meaning is None else f"{meaning}; {direction}"


def spent_of(record: SweepRecord) -> Spent:
    """Adds up what the sweep has spent."""
    return spent(record, (raw_config(record).get("budget") or {}).get("steps_per_trial", 0))


def taken(record: SweepRecord, seconds: float, price: float | None = None) -> tuple[Fact, ...]:
    """Returns what the sweep took beside its plan, how far the plan of a finished sweep was off, and an early end.

    Args:
        seconds: the time that the sweep has run.
        price: price of a GPU-hour.
    """
    found, plan, peak = spent_of(record), record.planned, record.peak_memory_bytes
    off = planned(record, found) if record.is_finished else None
    trials = (raw_config(record).get("budget") or {}).get("trials")
    in_all = record.trials_in_all(trials if isinstance(trials, int) else None)
    saved, hours = found.full_steps - found.steps, found.gpu_hours
    counts = ", ".join(f"{count} {state}" for state, count in record.counts().items())
    starts = f", {record.drivers} starts counted" if record.drivers > 1 else ""
    steps, time, memory, cost = f"{found.steps:,}", duration(seconds), size(peak) if peak else "", ""
    if plan is not None:
        steps += f" (planned: {plan.steps:,}{_off(off.steps_off if off else None)})"
        late = f"{_off(off.seconds_off)}{starts}" if off else ""
        time += f" (planned: {duration(plan.seconds)}{late})" if plan.seconds else ""
        memory += f" (planned for training: {size(plan.memory_bytes)})" if memory and plan.memory_bytes else ""
    if price is not None:
        cost = f"{hours * price:,.2f} at {price:g} a GPU-hour" if hours else "none: the sweep has held no GPU"
    return (
        Fact("trials", trial_tables.how_many(record, in_all) + (f" ({counts})" if counts else "")),
        Fact("time", time, "from the start to the end, or until now; pauses left out"),
        Fact("steps", steps, "optimizer steps of all trials; a step that was trained again counts once"),
        Fact(
            "saved",
            f"{saved:,} of {found.full_steps:,} steps ({saved / found.full_steps:.0%})" if saved else "",
            "by early stopping: what stopped trials would have taken more",
        ),
        Fact(
            "trained",
            f"{found.examples:,} rows, {found.tokens:,} tokens",
            "rows as often as they were trained on; padding is no token",
        ),
        Fact(
            "held",
            f"{hours:.2f} GPU-hours" if hours else f"{duration(found.host_seconds)} of hosts",
            "number of GPUs, or of hosts without a GPU, times the time for which they were held",
        ),
        Fact("memory", memory, "the most that a host has used, loading included"),
        Fact("cost", cost),
        Fact("ended", record.ended.message if record.ended is not None else "", "why the sweep ended early"),
    )


def _off(share: float | None) -> str:
    if share is None:
        return ""
    return ", as it came" if abs(share) < 0.005 else f", it took {abs(share):.0%} {'more' if share > 0 else 'less'}"


def made_of(record: SweepRecord) -> tuple[Fact, ...]:
    """Returns what decides the sweep's numbers beside its configuration."""
    hosts, data = record.hosts, record.data if record.data.get("train_rows") else {}
    gpus = f", {hosts.gpus_per_host} GPUs each" if hosts and hosts.gpus_per_host > 1 else ""
    place = f"{hosts.hosts} on {hosts.device}, {counted(hosts.slots, 'slot')} in all{gpus}" if hosts else ""
    found = [Fact(key, limit(value), "changed since the launch") for key, value in record.changes.items()]
    found += [Fact(f"fingerprint of {name}", told, "of its content") for name, told in record.fingerprints.items()]
    for name, words in _DATA.items():
        told = data.get(name)
        if told or (name in _ALWAYS and told is not None):
            found.append(Fact(words[0], f"{told:,}" if isinstance(told, int) else str(told), words[1]))
    found += [
        Fact("hosts", place, "processes that hold the base, as of the latest event"),
        Fact("engine", hosts.engine if hosts else "", "what computes the losses of trials"),
        Fact("hardware", record.base.hardware if record.base else "", "on which the base was evaluated"),
    ]
    return tuple(fact for fact in found if fact.value)


def maker() -> str:
    """Names the program that makes the page, with its version if it is installed."""
    try:
        return f"qsweep {version('qlora-sweeps')}"
    except PackageNotFoundError:
        return "qsweep"


def meanings_of_answer(record: SweepRecord, separation: Separation | None) -> tuple[str, ...]:
    """Explains the numbers of the answer, a line for each."""
    lines = [f"{objective.metric}: {unit(objective)}." for objective in record.objectives]
    if separation is not None and separation.is_told:
        seeds = " and over seeds" if separation.seeds is not None else ""
        lines.append(
            f"Intervals: of the difference, over the choice of evaluation rows{seeds}, corrected for skewness. They "
            "are so wide that all of them are to hold at once in 99 of 100 cases. "
            + ("Rows of one group count as one." if separation.is_grouped else "Rows count as independent.")
        )
    return tuple(lines)


def meanings(record: SweepRecord, separation: Separation | None) -> dict[str, str]:
    """Returns head of a column of the table of trials -> meaning of the column."""
    first, *others = record.objectives
    words = {
        "trial": "t00 is the default configuration where the sweep begins with it; base has no adapter",
        "alpha": "lora_alpha: how strongly the adapter's update counts",
        "r": "rank of the adapter",
        "modules": "target_modules: the layers that have an adapter",
        "lr": "learning_rate",
        "steps": "optimizer steps that the trial took",
        f"best {first.metric}": f"the best value that the trial reported: {unit(first)}",
        "at": "the step of that value; the adapter kept is of this step",
        "state": "STOPPED: ended early by the scheduler, a person or the budget; PARKED: waits at its rung",
        trial_tables.PARETO: "no other trial is better in one objective and as good in the others",
        "tokens": "trained on, padding not counted",
        "seconds": "time in the trial's steps, those of its neighbours in the same pass included",
        WHY: "where it names a rank, the scheduler stopped the trial for that",
        "key": "names the trial in commands and in MLflow: equal trials have equal keys",
    }
    if separation is not None:
        most = "at most " if any(each.rows for each in separation.trials) else ""
        words[trial_tables.APART] = (
            f"whether the difference from the best trial after equal steps is beyond chance on {most}"
            f"{separation.rows_in_words} ({percent(separation.confidence)} interval each); the steps of both where "
            "they are unequal; ? where it cannot be told"
        )
    for other in others:
        words[other.metric] = unit(other) if other.metric in COSTS else f"at the same step: {unit(other)}"
    return words
