"""Describes a plan in lines: the whole plan for `qsweep plan`, and a first screen for a launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from sweeps.config.number_words import counted, duration, epochs, parts, size
from sweeps.planning.capacity import DEVICES
from sweeps.planning.forecast import AnswersWork, Forecast, LengthsFrom
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.plan import Plan
from sweeps.planning.rates import Range

CONTINUED = "      "
SHOWN_WARNINGS = 3
"""Warnings that a launch shows; further warnings are counted."""
_PARTS = {"kept": "snapshots"}
"""Parts of a host's memory whose names differ from their fields' names."""
_LENGTHS: Mapping[LengthsFrom, str] = {
    "tokens": "",
    "characters": " (estimated from the characters of the rows)",
    "max_length": " (a guess: the rows are not read yet)",
}


def plan_lines(plan: Plan) -> list[str]:
    """Describes the whole plan and its warnings."""
    disk = f"; disk: {size(plan.disk_bytes)} at most" if plan.disk_bytes else ""
    rest = [f"where: {plan.place}: {_hosts(plan)}{disk}", *_memory(plan)]
    rest += _bases(plan)
    rest += [*([] if plan.engine is None else [engine_line(plan.engine)]), *_data(plan)]
    rest += [*_stopping(plan), *_work(plan.forecast), *_time(plan), *_choices(plan.choices)]
    return [_first(plan), *(CONTINUED + line for line in rest), *(f"warning: {each}" for each in plan.warnings)]


def launch_lines(plan: Plan, folder: Path, more: str) -> list[str]:
    """Describes the plan in five lines, and the first warnings; `more` is the command that shows the whole plan."""
    rest = [f"where: {plan.place}: {_hosts(plan)}", next(_time(plan)), f"sweep folder: {folder}"]
    beyond = len(plan.warnings) - SHOWN_WARNINGS
    lines = [_first(plan), *(CONTINUED + line for line in (*rest, f"more: {more}"))]
    lines += [f"warning: {each}" for each in plan.warnings[:SHOWN_WARNINGS]]
    return lines + ([f"{counted(beyond, 'more warning')}: {more}"] if beyond > 0 else [])


def _first(plan: Plan) -> str:
    """Says what runs: trials, where they are evaluated, and the steps of all trials with their range."""
    low, high = round(plan.forecast.steps.low), round(plan.forecast.steps.high)
    steps = f"about {counted(plan.expected_steps, 'step')} in all{f' ({low} to {high})' if low < high else ''}"
    best = ", where only the best go on" if _stops_early(plan) else ""
    return f"plan: {counted(plan.trials, 'trial')}, evaluated {_at(plan)}{best}; {steps}"


def _stops_early(plan: Plan) -> bool:
    return plan.forecast.reaching[-1] < plan.forecast.reaching[0]


def _at(plan: Plan) -> str:
    *before, last = map(str, plan.points)
    points = f"{', '.join(before)} and {last}" if before else last
    if plan.unit == "example":
        return f"after {points} {'example' if plan.points == (1,) else 'examples'}, whatever the batch"
    return f"at {'steps' if before else 'step'} {points}"


def _end(plan: Plan, point: int) -> str:
    return f"step {point}" if plan.unit == "step" else counted(point, plan.unit)


def _hosts(plan: Plan) -> str:
    each = f" of {plan.gpus_per_host} GPUs{' each' if plan.hosts > 1 else ''}" if plan.gpus_per_host > 1 else ""
    hosts = f"{counted(plan.hosts, f'{DEVICES[plan.device]} host')}{each}"
    if plan.slots_per_host is None or plan.slots is None:
        return f"{hosts}; how many trials train at once, each host decides by its free memory"
    fewest = plan.slots // plan.hosts
    slots = f"{fewest} to " if fewest < plan.slots_per_host else ""
    at_once = "one trial trains at a time" if plan.slots == 1 else f"{plan.slots} trials train at once"
    of_what = " on the fullest GPU" if each else " per host" if plan.hosts > 1 else ""
    memory = "" if plan.memory_bytes is None else f"; memory: about {plan.memory_bytes / 1e9:.1f} GB{of_what} at most"
    return f"{hosts} with {slots}{counted(plan.slots_per_host, 'slot')} ({at_once}){memory}"


def _bases(plan: Plan) -> Iterator[str]:
    """Says what a host with each base takes, and how often hosts change their base."""
    for base in plan.bases:
        slots = "slots as its memory allows" if base.slots_per_host is None else counted(base.slots_per_host, "slot")
        memory = "" if base.memory_bytes is None else f", about {size(base.memory_bytes)} a host"
        if not base.fits:
            yield f"base {base.name}: does not fit{memory}"
            continue
        time = "" if base.seconds is None else f", {_range(plan, base.seconds)} for its share of the trials"
        yield f"base {base.name}: {slots}{memory}{time}"
    if plan.bases:
        yield f"a host changes its base {plan.changes} times at most, and loads it anew each time"


def _memory(plan: Plan) -> Iterator[str]:
    """Says the parts of a host's memory that take 1 MB or more; empty if there is only one such part."""
    held = {} if plan.memory is None else plan.memory.model_dump()
    told = [f"{_PARTS.get(part, part)} {size(taken)}" for part, taken in held.items() if taken >= 1e6]
    is_guess = plan.rows_per_trial is not None and plan.forecast.lengths_from != "tokens"
    rows = ", if each row has data.max_length tokens: the rows are not tokenised yet" if is_guess else ""
    if len(told) > 1:
        yield f"memory by part: {', '.join(told)}{rows}"


def engine_line(engine: str) -> str:
    """Names the engine."""
    return f"engine, which computes the losses: {engine}"


def _data(plan: Plan) -> Iterator[str]:
    if plan.train_rows is not None:
        yield parts(plan.train_rows, plan.eval_rows, plan.test_rows)
    if plan.rows_per_trial is not None:
        steps = plan.points[-1] if plan.unit == "step" else None
        yield epochs(steps, plan.rows_per_trial, plan.train_rows)
    if plan.group_by is not None:
        yield f"rows with an equal {plan.group_by} count as one group (data.group_by)"


def _stopping(plan: Plan) -> Iterator[str]:
    """Says how many trials go on to each report, and why the sweep may take more or fewer steps."""
    if _stops_early(plan):
        later = zip(plan.forecast.reaching[1:], plan.points[1:], strict=True)
        (left, end), *rest = ((max(1, round(trials)), _end(plan, point)) for trials, point in later)
        further = "".join(f", {trials} for {point}" for trials, point in rest)
        yield f"early stopping leaves about {left} of {counted(plan.trials, 'trial')} for {end}{further}"
    if plan.worst_steps > round(plan.forecast.steps.high):
        most = plan.forecast.most_seconds
        taken = "" if most is None else f"; they take {_spent(plan, most)}"
        why = "where each trial is better than all before it, fewer are stopped"
        yield f"{plan.worst_steps} steps at most: {why}{taken}"
    if plan.patience is not None:
        trials = "a trial brings" if plan.patience == 1 else f"{plan.patience} trials in a row bring"
        yield f"the sweep ends earlier where {trials} no gain beyond chance (budget.patience)"


def _work(seen: Forecast) -> Iterator[str]:
    work = []
    if seen.tokens is not None:
        work.append(f"about {_tokens(seen.tokens)} tokens to train on{_LENGTHS[seen.lengths_from]}")
    if seen.evaluation_share is not None:
        work.append(f"evaluations are {seen.evaluation_share:.0%} of the work")
    if work:
        yield "; ".join(work)
    if seen.parts:
        yield f"evaluation rows at the report points: {', '.join(map(str, seen.parts))} (evaluation.rows: nested)"
    if seen.answers is not None:
        yield _answers(seen.answers)


def _answers(answers: AnswersWork) -> str:
    count, tokens = f"about {counted(round(answers.evaluations), 'evaluation')}", answers.tokens
    if tokens is None:
        told = f"{count} with answers, of unknown length before the rows are read: give evaluation.max_new_tokens"
    elif tokens:
        told = f"{count} with answers, of about {_tokens(tokens)} tokens at most in all"
    else:
        told = f"{count} that rank labels and generate no answers"
    share = "their time is unknown: the first sweep with these rows measures it"
    return f"scores: {told}; {share if answers.share is None else f'they are {answers.share:.0%} of the work'}"


def _time(plan: Plan) -> Iterator[str]:
    """Says the time, its GPU-hours and their cost, and the part of it before the first step."""
    seen = plan.forecast
    if seen.seconds is None or seen.start_seconds is None:
        yield f"time: {seen.rate}"
        return
    is_open = seen.answers is not None and seen.answers.share is None
    open_ = ", and that of scoring answers on top, which is unknown" if is_open else ""
    yield f"time: {_spent(plan, seen.seconds)}{open_}; {seen.rate}"
    yield f"of this, Ray starts and each host loads the base in {_spent(plan, seen.start_seconds)}; {seen.start_source}"


def _spent(plan: Plan, taken: Range) -> str:
    """Says a time, its GPU-hours and their cost; only the ranges if the time is calculated and not measured."""
    told, cost = [_range(plan, taken)], plan.cost_of(taken)
    amounts = [(plan.gpu_hours(taken), "{} GPU-hours")] if plan.device == "cuda" else []
    if cost is not None:
        amounts.append((cost, f"which cost {{}} at {plan.price:g} each"))
    for amount, form in amounts:
        low, expected, high = (f"{_rounded(each):,g}" for each in (amount.low, amount.expected, amount.high))
        told.append(form.format(f"{expected} ({low} to {high})" if plan.forecast.is_measured else f"{low} to {high}"))
    return ", ".join(told)


def _range(plan: Plan, taken: Range) -> str:
    if plan.forecast.is_measured:
        return f"about {duration(taken.expected)} ({duration(taken.low)} to {duration(taken.high)})"
    return f"about {duration(_rounded(taken.low))} to {duration(_rounded(taken.high))}"


def _rounded(amount: float) -> float:
    return float(f"{amount:.2g}")


def _tokens(count: float) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.2g} {name}"
    return f"{count:,.0f}"


def _choices(choices: Sequence[GpuAdvice]) -> Iterator[str]:
    """Yields the table of advice by GPU memory. Sizes with equal advice share a row."""
    if choices:
        yield "LoRA or QLoRA, by GPU memory, with compute_dtype auto (slots: trials that train at once):"
        yield f"{'GPU':>8}  {'LoRA, 16-bit base':20}{'QLoRA, nf4 base':20}use"
    alike = attrgetter("lora.words", "qlora.words", "advice", "lacks_bfloat16")
    for (lora, qlora, advice, is_old), rows in groupby(choices, alike):
        sizes = [choice.gpu_gb for choice in rows]
        span = f"{sizes[0]} GB{'*' * is_old}" if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]} GB"
        yield f"{span:>8}  {lora:20}{qlora:20}{advice}"
    if any(choice.lacks_bfloat16 for choice in choices):
        yield "* GPUs without bfloat16 (T4, V100), which compute in float32"
    fits = [fit for choice in choices for fit in (choice.lora, choice.qlora)]
    if any(fit.recomputes for fit in fits):
        yield "recompute: gradient checkpointing, a third more arithmetic for a fraction of the activations' memory"
    if busy := max((fit.slots for fit in fits if fit.keeps_busy), default=0):
        yield f"a GPU is busy with {counted(busy, 'slot')} of these rows: more memory gives no more slots"
