"""A plan in words, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from sweeps.planning import epochs
from sweeps.planning.capacity import DEVICES
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.number_words import counted, duration, size
from sweeps.planning.outlook import Outlook
from sweeps.planning.plan import Plan
from trainables.contract import Memory

CONTINUED = "      "
FEW = 3
"""So many totals of steps are all told."""
_PARTS = {"kept": "last reports"}
"""Parts of a host's memory under another name than that of the field."""


def plan_lines(plan: Plan) -> list[str]:
    """The plan, and its warnings."""
    lines = [f"plan: {counted(plan.trials, 'trial')}, {_reports(plan)}; {_steps(plan)}"]
    rest = [*_hosts(plan), *_data(plan), *_few(plan), *_outlook(plan), *_choices(plan.choices)]
    return lines + [CONTINUED + line for line in rest] + [f"warning: {warning}" for warning in plan.warnings]


def _steps(plan: Plan) -> str:
    """What all trials take: the totals that can happen where they are few, else about how many; and the most."""
    *others, last = plan.outlook.totals
    if 0 < len(others) < FEW:
        words = f"{', '.join(map(str, others))} or {counted(last, 'step')} in all"
    else:
        words, last = f"about {counted(plan.expected_steps, 'step')} in all", round(plan.outlook.steps.high)
        words += f" ({plan.outlook.steps.low:.0f} to {last})" if others else ""
    most = f"at most {plan.worst_steps}, where each trial is better than those before it and none fails"
    return words if plan.worst_steps <= last else f"{words}; {most}"


def _reports(plan: Plan) -> str:
    rungs = ", ".join(map(str, plan.points))
    if plan.unit == "example":
        return f"reports after {rungs} {'example' if plan.points == (1,) else 'examples'}, whatever the batch"
    return f"reports at {'step' if len(plan.points) == 1 else 'steps'} {rungs}"


def _hosts(plan: Plan) -> Iterator[str]:
    each = f" of {plan.gpus_per_host} GPUs{' each' if plan.hosts > 1 else ''}" if plan.gpus_per_host > 1 else ""
    hosts = f"{plan.place}: {counted(plan.hosts, f'{DEVICES[plan.device]} host')}{each}"
    disk = f"; up to {size(plan.disk_bytes)} on disk" if plan.disk_bytes else ""
    if plan.slots_per_host is None or plan.slots is None:
        yield f"{hosts}; each decides on its slots from its free memory{disk}"
        return
    of_what = "on the fullest GPU" if each else "per host"
    memory = f", about {plan.memory_bytes / 1e9:.1f} GB {of_what} at most" if plan.memory_bytes is not None else ""
    fewest = plan.slots // plan.hosts
    slots = f"{fewest} to " if fewest < plan.slots_per_host else ""
    yield f"{hosts} with {slots}{counted(plan.slots_per_host, 'slot')}{memory}{disk}"
    yield from _memory(plan.memory)
    if plan.engine is not None:
        yield f"engine: {plan.engine}"


def _memory(memory: Memory | None) -> Iterator[str]:
    """The parts of a host's memory, those that take less than 1 MB left out; nothing where there is one part only."""
    parts = {part: held for part, held in memory.model_dump().items() if held >= 1e6} if memory is not None else {}
    if len(parts) > 1:
        yield f"memory: {', '.join(f'{_PARTS.get(part, part)} {size(held)}' for part, held in parts.items())}"


def _data(plan: Plan) -> Iterator[str]:
    if plan.rows_per_trial is not None:
        steps = plan.points[-1] if plan.unit == "step" else None
        yield epochs.line(steps, plan.rows_per_trial, plan.train_rows)


def _few(plan: Plan) -> Iterator[str]:
    if plan.ends_alone:
        last = plan.points[-1]
        end = f"step {last}" if plan.unit == "step" else counted(last, plan.unit)
        yield f"few trials: the best one goes on to {end} alone"


def _outlook(plan: Plan) -> Iterator[str]:
    seen = plan.outlook
    if len(seen.reaching) > 1:
        yield f"trials expected at each report: {', '.join(f'{reached:g}' for reached in seen.reaching)}"
    work = []
    if seen.tokens is not None:
        unread = "" if seen.are_tokens_known else " (a guess: the rows are not read yet)"
        work.append(f"about {_tokens(seen.tokens)} tokens{unread}")
    if seen.evaluation_share is not None:
        work.append(f"{seen.evaluation_share:.0%} of the work is evaluation")
    if work:
        yield "; ".join(work)
    yield f"time: {_time(seen, plan)}"


def _time(seen: Outlook, plan: Plan) -> str:
    if seen.cost is None:
        return seen.rate
    taken = seen.cost.seconds
    words = f"about {duration(taken.expected)} ({duration(taken.low)} to {duration(taken.high)})"
    if plan.device == "cuda":
        hours = seen.cost.gpu_hours
        words += f", {hours.expected:.2g} ({hours.low:.2g} to {hours.high:.2g}) GPU-hours"
    if seen.cost.worst_seconds > taken.high and plan.may_train_all:
        words += f"; {duration(seen.cost.worst_seconds)} if none is stopped early"
    return f"{words}; {seen.rate}"


def _tokens(count: float) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.2g} {name}"
    return f"{count:,.0f}"


def _choices(choices: Sequence[GpuAdvice]) -> Iterator[str]:
    """The table, sizes with equal rows in one."""
    if choices:
        yield "which to use when, for this model, space and rows:"
        yield f"{'GPU':>12}  {'LoRA, 16-bit base':24}{'QLoRA, nf4 base':24}use"
    for (lora, qlora, advice), alike in groupby(choices, lambda each: (each.lora.words, each.qlora.words, each.advice)):
        sizes = [choice.gpu_gb for choice in alike]
        span = f"{sizes[0]} GB" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} GB"
        yield f"{span:>12}  {lora:24}{qlora:24}{advice}"
