"""Tables of trials: for the terminal and for MLflow's notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from sweeps.lifecycle import SweepRecord, TrialRecord
from sweeps.selection import Decision, rank

_SHORT = {"learning_rate": "lr", "lora_alpha": "alpha", "target_modules": "modules"}


def order(record: SweepRecord) -> list[TrialRecord]:
    """Ranked trials first, best first; then the others by number."""
    ranked = rank(record.trials.values())
    keys = {trial.trial_key for trial in ranked}
    rest = [trial for trial in record.trials.values() if trial.trial_key not in keys]
    return ranked + sorted(rest, key=lambda trial: trial.number)


def terminal(record: SweepRecord, trials: Sequence[TrialRecord], note: str | None = None) -> Table:
    """The trials as a table for people, with a note below it."""
    params = _params(trials)
    table = Table(box=None, pad_edge=False, header_style="bold", caption=note, caption_justify="left")
    for name in ("trial", *(_SHORT.get(name, name) for name in params), "steps", "best eval_loss", "at", "state"):
        table.add_column(name, justify="left" if name in ("modules", "state") else "right", no_wrap=True)
    for trial in trials:
        values = [_value(trial.params.get(name, "")) for name in params]
        at = "" if trial.best_step is None else str(trial.best_step)
        table.add_row(
            f"t{trial.number:02d}", *values, str(trial.step), _loss(trial.best_eval_loss), at, trial.state.value
        )
    return table


def markdown(record: SweepRecord, decision: Decision) -> str:
    """The result as Markdown, the answer first: MLflow folds a note after its first lines."""
    if decision.winner is None:
        head = f"No best trial: {decision.why}."
    else:
        best = decision.winner
        shown = ", ".join(f"{name} {_value(value)}" for name, value in best.params.items())
        head = f"**Best: t{best.number:02d}, eval_loss {best.best_eval_loss:.4f}** at step {best.best_step} ({shown})."
    trials = order(record)
    params = _params(trials)
    names = ["trial", *params, "steps", "best_eval_loss", "state"]
    lines = [head, "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for trial in trials:
        cells = [f"t{trial.number:02d}", *(_value(trial.params.get(name, "")) for name in params)]
        cells += [str(trial.step), _loss(trial.best_eval_loss), trial.state.value]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def against_default(
    record: SweepRecord, decision: Decision, starts_with_default: bool, is_outside: bool = False
) -> str | None:
    """The best trial compared with the default configuration, which is trial 0.

    Args:
        record: the sweep's.
        decision: its best trial.
        starts_with_default: whether trial 0 is the default configuration.
        is_outside: whether that lies outside the search space.
    """
    name = "t00, outside the space" if is_outside else "t00"
    default = next((t for t in record.trials.values() if t.number == 0), None) if starts_with_default else None
    if decision.winner is None or default is None or not rank([default]):
        return None
    if default.trial_key == decision.winner.trial_key:
        return f"the default configuration ({name}) is the best: eval_loss {default.best_eval_loss:.4f}"
    gain = default.best_eval_loss - decision.winner.best_eval_loss
    until = f"stopped at step {default.step}" if default.state.value == "STOPPED" else f"{default.step} steps"
    return (
        f"t{decision.winner.number:02d} has eval_loss {decision.winner.best_eval_loss:.4f}, the default configuration "
        f"({name}, {until}) {default.best_eval_loss:.4f}: {gain:.4f} lower ({gain / default.best_eval_loss:.0%})"
    )


def _params(trials: Sequence[TrialRecord]) -> list[str]:
    names: dict[str, None] = {}
    for trial in trials:
        names |= dict.fromkeys(name for name in trial.params if not _implied(name, trial.params))
    return list(names)


def _implied(name: str, params: Mapping[str, object]) -> bool:
    """alpha_over_r follows from r and lora_alpha, which are always shown."""
    return name == "alpha_over_r" and "lora_alpha" in params


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
