"""The facts on a sweep's page, each with its meaning: what the sweep took, and what it was made of. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import yaml

from sweeps.config.number_words import counted, duration, size
from sweeps.record.spent import Planned, Spent, planned, spent
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
from sweeps.statistics.comparison import Separation
from sweeps.statistics.intervals import percent
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
    meaning: str = ""


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
    return spent(record, _section(raw_config(record), "budget").get("steps_per_trial", 0))


def planned_of(record: SweepRecord) -> Planned | None:
    """Compares the plan with what the sweep took; None without a plan, and until the sweep is finished."""
    return planned(record, spent_of(record)) if record.is_finished else None


def money(record: SweepRecord, price: float) -> str:
    """Says what the sweep's GPU-hours cost. `price` is that of one GPU-hour."""
    hours = spent_of(record).gpu_hours
    if not hours:
        return "cost: none, as the sweep has held no GPU"
    return f"cost: {hours * price:,.2f}, for {hours:.2f} GPU-hours at {price:g} each"


def cost(record: SweepRecord, seconds: float) -> tuple[Fact, ...]:
    """Returns the facts on what the sweep took. `seconds` is the time that it has run."""
    taken = spent_of(record)
    saved = taken.full_steps - taken.steps
    share = f" ({saved / taken.full_steps:.0%})" if taken.full_steps else ""
    facts = [
        Fact("optimizer steps", f"{taken.steps:,}", "of all trials; a step that was trained again counts once"),
        Fact("steps saved", f"{saved:,} of {taken.full_steps:,}{share}", "what stopped trials would have taken more"),
        Fact("examples", f"{taken.examples:,}", "rows of these steps, as often as they were trained on"),
        Fact("tokens", f"{taken.tokens:,}", "of these steps, padding not counted"),
        Fact("time", duration(seconds), "from the start to the end, or until now; pauses left out"),
        Fact("host time", duration(taken.host_seconds), "hosts times the time for which they were held"),
        Fact("GPU-hours", f"{taken.gpu_hours:.2f}", "hours for which GPUs were held; 0 on a CPU"),
    ]
    if peak := record.peak_memory_bytes:
        facts.append(Fact("peak memory", size(peak), "most that a host has used, loading included"))
    if record.planned is not None:
        plan = record.planned
        time = f", {duration(plan.seconds)}" if plan.seconds is not None else ""
        facts.append(Fact("planned at launch", f"{counted(plan.steps, 'step')}{time}", "what was expected"))
    return tuple(facts)


def made_of(record: SweepRecord) -> dict[str, tuple[Fact, ...]]:
    """Returns heading -> facts that decide the sweep's numbers."""
    config = raw_config(record)
    makers = {"Model": _model, "Data": _data, "Search": _search, "Machines": _machines}
    return {name: facts for name, maker in makers.items() if (facts := tuple(maker(record, config)))}


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
        words[trial_tables.APART] = (
            f"whether the difference from the best trial after equal steps is beyond chance on "
            f"{separation.rows_in_words} ({percent(separation.confidence)} interval each); the steps of both where "
            "they are unequal; ? where it cannot be told"
        )
    for other in others:
        words[other.metric] = unit(other) if other.metric in COSTS else f"at the same step: {unit(other)}"
    return words


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return config.get(name) or {}


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _some(section: Mapping[str, Any], *names: str) -> Iterator[Fact]:
    for name in names:
        if section.get(name) is not None:
            yield Fact(name, _text(section[name]))


def _model(record: SweepRecord, config: Mapping[str, Any]) -> Iterator[Fact]:
    yield Fact("trainable", _text(config.get("trainable", "")), "what trains; toy has learning curves in its place")
    model = _section(config, "model")
    if not model:
        return
    yield Fact("source", _text(model.get("source")))
    yield Fact("revision", _text(model.get("revision") or "none given"), "branch, tag or commit")
    yield from _fingerprints(record, of_model=True)
    quantization = _section(config, "quantization")
    scheme = quantization.get("scheme")
    what = "plain LoRA on a base that is not quantised" if scheme == "none" else "QLoRA on a base in 4 bits"
    yield Fact("quantisation", _text(scheme), what)
    if scheme != "none":
        yield from _some(quantization, "double_quant")
    yield from _some(quantization, "compute_dtype")


def _data(record: SweepRecord, config: Mapping[str, Any]) -> Iterator[Fact]:
    data = _section(config, "data")
    yield from _some(data, "train", "eval", "test", "revision", "prompt", "completion", "system", "messages", "text")
    yield from _some(data, "max_length")
    yield from _fingerprints(record, of_model=False)
    if not data:
        return
    for name, (words, meaning) in _DATA.items():
        found = record.data.get(name)
        if found or (name in _ALWAYS and found is not None):
            yield Fact(words, _text(found), meaning)


def _fingerprints(record: SweepRecord, of_model: bool) -> Iterator[Fact]:
    """Yields the fingerprints of the model and its parts, such as its tokenizer, or all other fingerprints."""
    for name, value in record.fingerprints.items():
        if (name.partition(".")[0] == "model") == of_model:
            yield Fact(f"fingerprint of {name}", value, "identifies its content")


def _search(record: SweepRecord, config: Mapping[str, Any]) -> Iterator[Fact]:
    for field, domain in _section(config, "search_space").items():
        shown = yaml.safe_dump(domain, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
        yield Fact(field, shown, "searched")
    for place, objective in enumerate(record.objectives):
        yield Fact("objective" if place == 0 else "further objective", objective.metric, unit(objective))
    budget, changes = _section(config, "budget"), record.changes
    for name, value in budget.items():
        if value is not None:
            now = f", changed to {_text(changes[key])}" if (key := f"budget.{name}") in changes else ""
            yield Fact(f"budget.{name}", f"{_text(value)}{now}")
    yield from (Fact(name, _parts(_section(config, name))) for name in ("scheduler", "searcher") if config.get(name))
    if "seed" in config:
        yield Fact("seed", str(config["seed"]), "of the searcher; a trial's own follows from it and from its point")


def _parts(section: Mapping[str, Any]) -> str:
    rest = (
        f"{name} {_text(value)}" for name, value in section.items() if name != "kind" and value not in (None, [], {})
    )
    return ", ".join([_text(section.get("kind", "")), *rest])


def _machines(record: SweepRecord, config: Mapping[str, Any]) -> Iterator[Fact]:
    yield from _some(_section(config, "cluster"), "profile")
    hosts = record.hosts
    if hosts is not None:
        yield Fact("hosts", f"{hosts.hosts} on {hosts.device}", "processes that hold the base, as of the latest event")
        yield Fact("slots", str(hosts.slots), "trials that all hosts together train at once")
        if hosts.device == "cuda":
            yield Fact("GPUs of each host", str(hosts.gpus_per_host))
        if hosts.engine:
            yield Fact("engine", hosts.engine, "what computes the losses of trials")
    if record.base is not None and record.base.hardware:
        yield Fact("hardware", record.base.hardware, "what the base was evaluated on, and the type of its activations")
    if uri := _section(config, "tracking").get("uri"):
        yield Fact("MLflow", _text(uri))
