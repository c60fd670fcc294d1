"""What people read of a promotion: the gate's table, the model card, the descriptions in the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.tracking.lookup import FoundSweep, TrialRun
from trainables.scoring.requests import BASE


@dataclass(frozen=True)
class Story:
    """What there is to tell of the winner of a gate."""

    model: str
    alias: str
    sweep: FoundSweep
    winner: TrialRun
    verdict: Verdict
    rows: str
    """Where the rows that decided come from."""
    base: str
    """Where the base comes from, the commit of a hub model included."""
    hub_id: str | None
    """Of a base that the hub has."""
    quantization: str
    licence: str | None
    install_base: str | None
    forced: Sequence[str]
    versions: Mapping[str, str]


def table(verdict: Verdict) -> Table:
    """The gate: base, champion and candidates, the winner first."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "loss", "gain on", "", f"{verdict.confidence:.1%} interval", "verdict"):
        shown.add_column(name, justify="left" if name in ("", "gain on", "verdict") else "right", no_wrap=True)
    for name in (BASE, CHAMPION):
        if name in verdict.losses:
            shown.add_row(name, f"{verdict.losses[name]:.4f}", "", "", "", "")
    told = ""
    for found in verdict.comparisons:
        first = found.candidate != told
        told = found.candidate
        shown.add_row(
            found.candidate if first else "",
            f"{verdict.losses[found.candidate]:.4f}" if first else "",
            found.against,
            f"{found.gain:+.4f}",
            f"{found.low:+.4f} to {found.high:+.4f}",
            ("passes" if found.passed else "fails") if found.candidate == verdict.winner else "",
        )
    return shown


def headline(story: Story) -> str:
    """The version in one sentence."""
    verdict = story.verdict
    gains = ", ".join(
        f"{found.gain:.4f} lower than the {found.against} ({verdict.confidence:.1%} interval {found.low:.4f} to "
        f"{found.high:.4f})"
        for found in verdict.of(verdict.winner)
    )
    return f"Loss **{verdict.losses[verdict.winner]:.4f}** on {verdict.rows} rows of {story.rows}: {gains}."


def description(story: Story) -> str:
    """A version's description in the registry, the answer first."""
    winner = story.winner
    settings = ", ".join(f"{name} {value}" for name, value in winner.params.items())
    lines = [headline(story), ""]
    lines += [f"**Forced**: {reason}." for reason in story.forced]
    lines += [
        f"- sweep `{story.sweep.sweep_id}`, trial {winner.label} (`{winner.trial_key}`)",
        f"- {settings}",
        f"- base `{story.base}`, {story.quantization}",
        "- the plain PEFT folder is `artifacts/adapter` of this version",
    ]
    return "\n".join(lines)


def model_description(story: Story) -> str:
    """The registered model's description."""
    return (
        f"LoRA adapters on `{story.base}`, promoted by `qsweep promote` after they were evaluated again.\n\n"
        f'Load the present one with `mlflow.pyfunc.load_model("models:/{story.model}@{story.alias}")`. '
        "`qsweep models` shows the history, `qsweep rollback` takes the last promotion back."
    )


def card(story: Story) -> str:
    """The model card inside the package."""
    config, verdict = story.sweep.config, story.verdict
    data = config.data
    lines = ["---"]
    # The hub links a model to its base by the bare id, and takes nothing else here; the commit stands under Training.
    lines += [f"base_model: {story.hub_id}"] if story.hub_id else []
    lines += [f"license: {story.licence}"] if story.licence else []
    lines += ["library_name: peft", "tags: [lora]", "---", "", f"# {story.model}", "", headline(story), ""]
    if story.forced:
        lines += [*(f"**Forced**: {reason}." for reason in story.forced), ""]
    lines += ["| | loss | gain | interval |", "|---|---|---|---|"]
    lines += [f"| {name} | {verdict.losses[name]:.4f} | | |" for name in (BASE, CHAMPION) if name in verdict.losses]
    lines += [
        f"| {found.candidate} | {verdict.losses[found.candidate]:.4f} | {found.gain:+.4f} on the {found.against} "
        f"| {found.low:+.4f} to {found.high:+.4f} |"
        for found in verdict.comparisons
    ]
    lines += ["", "Loss is the negative log-likelihood per completion token, in nats.", "", "## Training", ""]
    if data is not None:
        lines += [f"- rows: `{data.train}`, of at most {data.max_length} tokens"]
        if data.system is not None:
            lines += [f"- system message: {data.system}"]
    lines += [
        f"- base: `{story.base}`, {story.quantization}; licence: {story.licence or 'see the base'}",
        f"- {', '.join(f'{name} {value}' for name, value in story.winner.params.items())}",
        f"- the best of {len(story.sweep.trials)} trials of the sweep `{story.sweep.sweep_id}` "
        f"(space: {', '.join(config.searched) or config.search_space})",
        "",
        "## Use",
        "",
        "The base is not in here. It is loaded from where it came from, quantised as in training, and refused when it",
        "is not the same.",
        "",
        "```python",
        "import mlflow, pandas",
        f'model = mlflow.pyfunc.load_model("models:/{story.model}@{story.alias}")',
        "model.predict(pandas.DataFrame([{...}]))  # the columns of input_example.json",
        "```",
        "",
        "`artifacts/adapter` is a plain PEFT folder: `PeftModel.from_pretrained(base, PATH)`, or",
        f"`vllm serve BASE --enable-lora --lora-modules {story.model}=PATH`.",
    ]
    if story.install_base is not None:
        lines += ["", f"Beside requirements.txt it needs its base: `{story.install_base}`."]
    return "\n".join(lines) + "\n"
