"""Writes what people read of a promotion: the gate's table, the model card, the descriptions in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from sweeps.config import points
from sweeps.config.checks import VLLM_RANKS
from sweeps.promotion import words
from sweeps.promotion.evidence import Contender
from sweeps.promotion.gate import CHAMPION, Verdict
from sweeps.promotion.request import Context
from sweeps.statistics.confidence import percent
from sweeps.tracking import model_package
from sweeps.tracking.lookup import TrialRun
from trainables.objective import EVAL_LOSS
from trainables.scoring.requests import BASE, BaseFacts
from trainables.specs import EvaluationSpec

NO_ENDS = (
    "it is not known where an answer ends: no row that decided ends in a special token before data.max_length; the "
    "model answers up to an end token of the base or max_new_tokens"
)
_SAID_ELSEWHERE = {
    "log10_learning_rate", "base_model", "base_revision", "quantization", "compute_dtype", "train_data",
}  # fmt: skip
"""Params that repeat another param or line, and the path of the rows on the machine that trained."""


@dataclass(frozen=True)
class VersionFacts:
    """Facts about a version for its card, its tags and its decision record."""

    context: Context
    winner: Contender
    base: BaseFacts
    unquantised: float | None
    """The winner's loss on the base without quantisation; None if the base is not quantised, or the loss is unknown."""
    forced: Sequence[str]

    @property
    def trial(self) -> TrialRun:
        """Returns the winner's trial."""
        return self.winner.candidate.trial


def table(verdict: Verdict) -> Table:
    """Makes a table of base, champion and candidates, the winner first, with the guards and the worst slice."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", _metric(verdict), "gain on", "", f"{percent(verdict.best.confidence)} interval", "verdict"):
        shown.add_column(name, justify="left" if name in ("", "gain on", "verdict") else "right", no_wrap=True)
    for line in words.lines(verdict):
        whose = ("", "") if line.against == CHAMPION else (escape(line.name), line.value)
        shown.add_row(*whose, line.against, line.gain, line.span, line.verdict)
    return shown


def other_metrics(verdict: Verdict, scored: EvaluationSpec) -> list[str]:
    """Returns lines for the loss and the graders' main scores, each with the values of base, champion and winner.

    Leaves out the deciding metric. All values are of the deciding rows.
    """
    own = verdict.scores[verdict.winner].metrics
    shown = [name for name in (EVAL_LOSS, *scored.main_among(own)) if name != verdict.objective.metric]
    told = {who: verdict.scores[who].metrics for who in (BASE, CHAMPION, verdict.winner) if who in verdict.scores}
    return [
        f"{name} (does not decide): "
        + ", ".join(f"{who} {metrics[name]:.4f}" for who, metrics in told.items() if name in metrics)
        for name in shown
    ]


def _metric(verdict: Verdict) -> str:
    return "loss" if verdict.objective.metric == EVAL_LOSS else verdict.objective.metric


def headline(facts: VersionFacts) -> str:
    """Says in one sentence what the version gained, as plain text: MLflow's list of versions renders no Markdown."""
    verdict, metric = facts.winner.verdict, _metric(facts.winner.verdict)
    gains = ", ".join(
        f"{verdict.objective.words(gain.difference)} than the {gain.key} ({words.evidence(verdict.best, gain)})"
        for gain in verdict.best.gains
    )
    value, rows = verdict.values[verdict.winner], facts.winner.evidence.rows
    return f"{metric[0].upper()}{metric[1:]} {value:.4f} on {rows}: {gains}."


def description(facts: VersionFacts) -> str:
    """Returns a version's description in the registry: first its gain, then its origin."""
    lines = [headline(facts), ""]
    lines += [f"**Forced**: {reason}." for reason in facts.forced]
    of = facts.context.sweep.config.refit_of
    refit = "" if of is None else f", a refit of {of.trial} of `{of.sweep}`"
    lines += [
        f"- sweep `{facts.context.sweep.sweep_id}`, trial {facts.trial.label} (`{facts.trial.trial_key}`){refit}",
        f"- {_settings(facts.trial)}",
        f"- base `{base_of(facts)}`, {_quantization(facts)}",
        f"- {_bases(facts)}",
        "- the plain PEFT folder is `artifacts/adapter` of this version",
    ]
    return "\n".join(lines)


def model_description(facts: VersionFacts) -> str:
    """Returns the registered model's description."""
    return (
        f"LoRA adapters on `{base_of(facts)}`, promoted by `qsweep promote` after they were evaluated again.\n\n"
        f'Load the present one with `mlflow.pyfunc.load_model("models:/{facts.context.model}@{facts.context.alias}")`. '
        "`qsweep models` shows the history, `qsweep rollback` takes the last promotion back."
    )


def card(facts: VersionFacts) -> str:
    """Returns the model card of the package."""
    sweep, verdict = facts.context.sweep, facts.winner.verdict
    config, data = sweep.config, sweep.config.data
    own = sum(trial.repeats is None for trial in sweep.trials)
    candidates = len(verdict.candidates)
    # Not the sweep's best: its trials are ranked on other rows, and perhaps by another metric.
    best = f"the best on the rows that decided of {candidates} candidate{'' if candidates == 1 else 's'}, out"
    is_chosen = facts.context.request.trial is not None
    place = "a repeat of one" if facts.trial.repeats else "chosen by hand, one" if is_chosen else best
    lines = ["---"]
    # The hub links a model to its base by the bare id alone; the commit stands under Training.
    lines += [f"base_model: {facts.base.source}"] if facts.base.kind == "hub" else []
    lines += [f"license: {facts.base.licence}"] if facts.base.licence else []
    lines += ["library_name: peft", "tags: [lora]", "---", "", f"# {facts.context.model}", "", headline(facts), ""]
    if facts.forced:
        lines += [*(f"**Forced**: {reason}." for reason in facts.forced), ""]
    lines += [f"| | {_metric(verdict)} | gain | interval |", "|---|---|---|---|"]
    for line in words.lines(verdict):
        name, gain = line.name.replace("|", r"\|"), f"{line.gain} on the {line.against} | {line.span}"
        lines.append(f"| {name} | {line.value} | {gain if line.gain else '|'} |")
    lines += ["", "Loss is the negative log-likelihood per completion token, in nats."]
    lines += [_bases(facts), "", f"{words.unseen(verdict)}.", ""]
    lines += [*(f"**Warning**: {warning}." for warning in verdict.warnings), *([""] if verdict.warnings else [])]
    lines += ["## Training", ""]
    if data is not None:
        lines += [f"- rows: `{points.word(data.train)}`, of at most {data.max_length} tokens"]
        if data.system is not None:
            lines += [f"- system message: {data.system}"]
    lines += [
        f"- base: `{base_of(facts)}`, {_quantization(facts)}; licence: {facts.base.licence or 'see the base'}",
        f"- {_settings(facts.trial)}",
        f"- {place} of {own} trials of the sweep `{sweep.sweep_id}` "
        f"(space: {', '.join(config.searched) or config.search_space})",
        *(() if (of := config.refit_of) is None else (f"- refit of trial {of.trial} of the sweep `{of.sweep}`",)),
        "",
        *_use(facts),
        *_elsewhere(facts),
    ]
    install = model_package.install_base(facts.base)
    if install is not None:
        lines += ["", f"Beside requirements.txt it needs its base: `{install}`."]
    return "\n".join(lines) + "\n"


def _use(facts: VersionFacts) -> list[str]:
    """Returns the section on loading the version with MLflow, and on what `predict` answers."""
    lines = [
        "## Use",
        "",
        "The base is not in this package. It is loaded from its source and quantised as in training. A base that is",
        "not the one of training is refused.",
        "",
        "```python",
        "import mlflow, pandas",
        # No alias: it moves, and a version may get several.
        f'model = mlflow.pyfunc.load_model("models:/{facts.context.model}/VERSION")  # VERSION: the number of this one',
        "model.predict(pandas.DataFrame([{...}]))  # the columns of input_example.json",
        "```",
        "",
    ]
    data = facts.context.sweep.config.data
    if data is not None and data.messages is not None:
        lines += [f"`{data.messages}` is the JSON of a chat, with its system message, up to the message to answer.", ""]
    if facts.winner.evidence.answer.labels:
        lines += [
            "`predict` answers with the likeliest label in `artifacts/base.json`, as the metric `choice` counts. With",
            '`params={"generate": True}` it generates. Other servers generate, and may give no label: vLLM keeps to',
            'labels with `"structured_outputs": {"choice": [...]}`, but token by token, which can give another label.',
            "",
        ]
    return lines


def served_name(model: str, version: str) -> str:
    """Returns the name to serve a version under."""
    return f"{model}-v{version}"


def base_of(facts: VersionFacts) -> str:
    """Returns the source of the base, with the commit of a hub model."""
    return facts.base.source + (f" at {facts.base.revision}" if facts.base.revision else "")


def _quantization(facts: VersionFacts) -> str:
    return f"{facts.base.traits.words}, {facts.base.quantization['compute_dtype']}"


def _settings(trial: TrialRun) -> str:
    return ", ".join(f"{name} {value}" for name, value in trial.params.items() if name not in _SAID_ELSEWHERE)


def _bases(facts: VersionFacts) -> str:
    """Says on which base each loss was computed."""
    told = f"Losses are on the base as in training: {_quantization(facts)}."
    if not facts.base.traits.is_quantised:
        return told
    winner, loss = facts.winner.verdict.winner, facts.unquantised
    known = f"has loss {loss:.4f} on these rows" if loss is not None else "was not evaluated"
    return f"{told} On the base without quantisation {winner} {known}."


def _elsewhere(facts: VersionFacts) -> list[str]:
    """Says how to use the PEFT folder without this package, and where its answers end."""
    lines = [
        "`artifacts/adapter` is a plain PEFT folder. To bring it here:",
        f"`mlflow artifacts download -u models:/{facts.context.model}/VERSION -d .`",
        "A prompt has the form that `artifacts/base.json` says, and goes through the chat template of",
        "`artifacts/tokenizer` where that has one. This loads the adapter on the base as in training:",
        "",
        "```python",
    ]
    lines += [*model_package.loading(facts.base), "```", ""]
    rank = next((most for most in VLLM_RANKS if most >= int(facts.trial.params["r"])), None)
    if rank is not None:
        options = (
            f"--tokenizer artifacts/tokenizer{facts.base.traits.vllm_option or ''} --enable-lora --max-lora-rank {rank}"
        )
        name = served_name(facts.context.model, "VERSION")
        command = f"vllm serve BASE {options} --lora-modules {name}=artifacts/adapter"
        lines += [f"vLLM serves it: `{command}`. BASE is what the line `base = ` loads."]
        lines += [
            "The name holds the version's number: where the files under a name change, vLLM goes on answering with"
        ]
        lines += [
            f"the old ones. `qsweep check-serving URL --model {facts.context.model}` tells what a server answers with."
        ]
        if facts.base.traits.vllm_option is None:
            told = "the loss is the one on the base without quantisation"
            lines += [f"vLLM cannot quantise to {facts.base.traits.words}: {told}."]
    if not (ended := facts.winner.evidence.answer.ends):
        return [*lines, "", f"{NO_ENDS[0].upper()}{NO_ENDS[1:]}."]
    ends = ", ".join(f"`{text}` ({number})" for text, number in ended.items())
    return [
        *lines,
        f"Training ended answers with the token {ends}. Not every base stops there: give it as `eos_token_id` to",
        "`generate`, or as `stop_token_ids` to vLLM. The model loaded by MLflow stops there by itself.",
    ]
