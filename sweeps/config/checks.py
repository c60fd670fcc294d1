"""Checks that need more than one section of the sweep file, or look at local files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster import gpu_table
from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.config import messages, searched_fields, yaml_files
from sweeps.config.model import LENGTHS, SweepConfig, size_bytes
from sweeps.config.number_words import counted
from sweeps.config.passwords import holds_secret, refusal
from sweeps.config.uris import sqlite_file, work_folder
from sweeps.errors import ConfigError
from trainables import catalogue
from trainables.contract import Preview, Trainable
from trainables.errors import NotTrainable, TrainableError
from trainables.grading import catalogue as grading
from trainables.inputs import paths
from trainables.objective import COSTS, EVAL_LOSS, Direction
from trainables.scoring import requests

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank in vLLM 0.32.0, default 16 (vllm/config/lora.py): it serves every rank up to this value."""


def served_ranks(config: SweepConfig, space: SearchSpace) -> list[str]:
    """Warns of ranks of the file or the space that are no --max-lora-rank of vLLM, or above its highest one."""
    searched = space.domains.get("adapter.r")
    ranks: set[Value] = {config.adapter.r}
    if searched is not None:
        is_short = (searched.size or 0) <= 1000
        ranks |= {*(searched.values() or ())} if is_short else {*searched.extremes()}
    odd = sorted(rank for rank in ranks if isinstance(rank, int) and rank > 16 and rank not in VLLM_RANKS)
    if config.model is None or not odd:
        return []
    named = ", ".join(map(str, odd[:3])) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
    return [
        f"adapter.r: {named}: vLLM takes no such --max-lora-rank, only {', '.join(map(str, VLLM_RANKS))}: give it the "
        f"next higher one; it serves no rank above {VLLM_RANKS[-1]}"
    ]


def find_trainable(raw: Mapping[str, Any], config: SweepConfig) -> tuple[Trainable | None, list[str]]:
    """Returns the trainable, or None and a line that says why. `config` are the parts of `raw` without a mistake."""
    if not isinstance(raw.get("trainable", config.trainable), str):
        return None, []  # the check of the configuration refused it
    try:
        return catalogue.find(config.trainable), []
    except NotTrainable as error:
        return None, [f"trainable: {error}"]


def objectives(config: SweepConfig, trainable: Trainable) -> list[str]:
    """Lists mistakes in the objectives: a metric that the trainable does not offer, a wrong mode, a repeated metric."""
    offered = _metrics(config, trainable)
    if offered is None:
        return []
    wrong, named = [], set()
    for place, objective in enumerate(config.objectives):
        field = f"objective.{place}" if isinstance(config.objective, tuple) else "objective"
        # A cost cannot be the first objective: it has no best step and stops no trial.
        known: Mapping[str, Direction] = {**offered, **dict.fromkeys(COSTS, "min")} if place else offered
        metric, mode = objective.metric, objective.mode
        if metric not in known:
            wrong.append(f"{field}.metric: {_not_offered(config, trainable, metric, known)}")
        elif mode != known[metric]:
            better = "lower" if mode == "max" else "higher"
            wrong.append(f"{field}.mode: {mode}: a {better} {metric} is better: write mode: {known[metric]}")
        elif metric in named:
            wrong.append(f"{field}.metric: {metric} is an objective already: name another, or leave this one out")
        named.add(metric)
    return wrong


def _metrics(config: SweepConfig, trainable: Trainable, *more: str) -> Mapping[str, Direction] | None:
    """Returns the metrics of evaluations, scored by `more` too; None if the trainable refuses to name them."""
    evaluation = config.evaluation.model_copy(update={"metrics": (*config.evaluation.metrics, *more)})
    try:
        return catalogue.metrics(trainable, config.base.model_copy(update={"evaluation": evaluation}))
    except TrainableError:
        return None  # the check of the trainable says why


def _not_offered(config: SweepConfig, trainable: Trainable, metric: str, known: Collection[str]) -> str:
    function = next((name for name in config.evaluation.names if metric.startswith(f"{name}_") and name in known), None)
    if function not in (None, *grading.GRADERS):
        declared = f'{function}.metrics = {{"{metric.removeprefix(f"{function}_")}": "max"}}'
        return f"{metric}: a number that {function} returns by name must be declared, as in {declared}"
    if metric in (_metrics(config, trainable, metric) or ()):
        return f"{metric} scores answers: ask for it with evaluation: {{metrics: [{metric}]}}"
    later = "; it may be a second objective, in a list" if metric in COSTS else ""
    return messages.unknown("metric", metric, known) + later


def refuse_broken_graders(config: SweepConfig) -> None:
    """Raises ConfigError if what scores the answers of a sweep that goes on was changed, and is wrong."""
    lines = searched_fields.refused_by(catalogue.find(config.trainable), config.base)
    if wrong := [line for line in lines if line.startswith("evaluation")]:
        raise ConfigError(wrong)


def promotion_metric(config: SweepConfig, trainable: Trainable) -> list[str]:
    """Lists mistakes in promotion.metric and the metrics of guards, which else would show at the end of the sweep."""
    offered, guards = _metrics(config, trainable), config.promotion.guards
    named = {f"promotion.guards.{place}.metric": guard.metric for place, guard in enumerate(guards)}
    named |= {} if config.promotion.metric is None else {"promotion.metric": config.promotion.metric}
    if offered is None:
        return []
    wrong = {field: metric for field, metric in named.items() if metric not in offered}
    lines = [f"{field}: {_not_offered(config, trainable, metric, offered)}" for field, metric in wrong.items()]
    alone: Collection[str] = ()
    with suppress(TrainableError):  # a user's own trainable may know other graders
        alone = grading.without_rows(config.evaluation)
    rule = "has no value per row, by which a promotion decides: name another metric"
    return lines + [f"{field}: {metric} {rule}" for field, metric in named.items() if metric in alone]


def promotion_rows(config: SweepConfig) -> list[str]:
    """Lists mistakes in the files of promotion.guards and the column of promotion.slices; `data` must be right."""
    if config.data is None:
        return []
    wrong = []
    for place, guard in enumerate(config.promotion.guards):
        if guard.data is not None:
            wrong += requests.check_rows(config.data, guard.data, f"promotion.guards.{place}.data")
    if config.promotion.slices is not None:
        decide = "test" if config.data.test is not None or requests.count_rows(config.data, "test") else "held_out"
        wrong += requests.check_slices(config.data, decide, config.promotion.slices.by)
    return wrong


def refit_keys(config: SweepConfig) -> list[str]:
    """Refuses data.all_rows in a sweep that chooses among trials: its test rows would choose."""
    if config.data is None or not config.data.all_rows or config.refit_of is not None:
        return []
    return ["data.all_rows: is for a trial that was chosen already: qsweep refit SWEEP --all-rows"]


def stopping_metric(config: SweepConfig, trainable: Trainable) -> SweepConfig:
    """Sets `scheduler.metric` to the loss if the objective is a score that only some reports have."""
    is_scored_late = config.evaluation.when != "every" and config.objectives[0].metric not in trainable.METRICS
    if not is_scored_late or config.scheduler.metric is not None:
        return config
    return config.model_copy(update={"scheduler": config.scheduler.model_copy(update={"metric": EVAL_LOSS})})


def nested_rows(config: SweepConfig, trainable: Trainable) -> list[str]:
    """Refuses parts of the rows where the trainable, or the scoring of answers, needs all rows at each report point."""
    field, way_out = "evaluation.rows: nested", "take evaluation.rows=all"
    if config.evaluation.rows == "all":
        return []
    if not trainable.NESTS_ROWS:
        return [f"{field}: the trainable {config.trainable} evaluates all rows at each report point: {way_out}"]
    if config.evaluation.metrics and config.evaluation.when == "every":
        return [f"{field}: evaluation.when: every scores the answers of all rows: {way_out}, or evaluation.when=last"]
    return []


def alias(field: str, value: str) -> list[str]:
    """Lists mistakes in an alias.

    MLflow 3.17, utils/validation.py: _validate_model_alias_name and _validate_model_alias_name_reserved.
    """
    if re.fullmatch(r"latest|v\d+|challenger|previous.*", value, re.IGNORECASE):
        return [f"{field}: {value!r} is kept for other uses: name another, such as production"]
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        return [f"{field}: {value!r}: MLflow takes letters, digits, '_' and '-' in an alias: name one such as prod-eu"]
    return []


def budget(raw: Mapping[str, Any], config: SweepConfig) -> list[str]:
    """Lists contradictions between fields of the budget. `raw` is the file with its overrides."""
    given = [name for name in LENGTHS if yaml_files.section(raw, "budget").get(name) is not None]
    wrong = []
    if len(given) > 1:
        wrong.append(f"budget: {' and '.join(given)} say how long a trial is: give one of them")
    if config.budget.trials == "auto" and config.budget.wall_clock is None and config.budget.gpu_hours is None:
        wrong.append("budget.trials: auto fills a budget of time: give budget.wall_clock or budget.gpu_hours with it")
    return wrong


def grace(raw: Mapping[str, Any], config: SweepConfig) -> list[str]:
    """Refuses a scheduler.grace_steps that `raw` gives above the steps of a trial; `config` has its steps settled."""
    given, steps = yaml_files.section(raw, "scheduler").get("grace_steps"), config.budget.steps_per_trial
    if given is None or not config.scheduler.compares or given <= steps:
        return []
    rule = f"is above the {counted(steps, 'step')} of a trial, so that none could be stopped early"
    return [f"scheduler.grace_steps: {given} {rule}: lower grace_steps, or make trials longer in budget"]


def gpu(config: SweepConfig) -> list[str]:
    """Refuses a cluster.gpu_memory that the type in cluster.gpu does not have."""
    kind, memory = config.cluster.gpu, config.cluster.gpu_memory
    has = None if kind is None or memory is None else gpu_table.contradiction(kind, size_bytes(memory))
    if has is None:
        return []
    return [f"cluster.gpu_memory: {memory}, but cluster.gpu is {kind}, which has {has}: leave one of them out"]


def secrets(given: object, field: str = "") -> list[str]:
    """Refuses each text of the file with a secret in an address: the folder, MLflow and Ray's logs would keep it."""
    if isinstance(given, str):
        is_address = field == "tracking.uri" or field.startswith("cluster.runtime_env.env_vars.")
        is_wrong = holds_secret(given) or (is_address and holds_secret(f"x://{given}"))
        return [f"{field}: {refusal(given, field)}"] if is_wrong else []
    parts = given.items() if isinstance(given, Mapping) else enumerate(given) if isinstance(given, list | tuple) else ()
    return [line for name, part in parts for line in secrets(part, f"{field}.{name}".removeprefix("."))]


def writable_places(config: SweepConfig) -> list[str]:
    """Refuses a sweep folder or SQLite database that cannot be written. Writes nothing."""
    storage = work_folder(config.storage)
    wrong = _unwritable(f"storage: {storage}", storage / config.name, "choose another: storage=DIR")
    database = sqlite_file(config.tracking.uri)
    if database is None:
        return wrong
    if paths.is_folder(database):
        return [*wrong, f"tracking.uri: {config.tracking.uri}: {database} is a folder, not a database file"]
    way_out = "choose another: tracking.uri=sqlite:///FILE"
    return wrong + _unwritable(f"tracking.uri: {config.tracking.uri}", database, way_out)


def paths_are_text(config: SweepConfig) -> list[str]:
    """Refuses paths that are not UTF-8: neither config.json nor MLflow can hold them."""
    return [
        f"{field}: {text!a} holds bytes that are not UTF-8: rename the folder"
        for field, text in _texts(config.model_dump(), "")
        if any("\ud800" <= character <= "\udfff" for character in text)
    ]


def _texts(value: object, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{field}.{key}" if field else str(key))


def _unwritable(what: str, path: Path, way_out: str) -> list[str]:
    try:
        os.fsencode(path)
        there = next(place for place in (path, *path.parents) if place.exists())
        if there != path and there.is_file():
            return [f"{what} cannot be made: {there} is a file; {way_out}"]
    except UnicodeEncodeError:
        return [f"{what} cannot be made: this locale has no such names; set PYTHONUTF8=1"]
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        return [f"{what} cannot be made: {error.strerror}; {way_out}"]
    return (
        []
        if os.access(there, os.W_OK)
        else [f"{what} cannot be written: {there} is read-only, or another user's; {way_out}"]
    )


def local_files(raw: Mapping[str, Any], config: SweepConfig, trainable: Trainable) -> tuple[Preview, list[str]]:
    """Returns a preview of the local data, and a line for each missing section and each wrong file."""
    wrong = [
        f"{section}: is required by the trainable {config.trainable}"
        for section in sorted(trainable.REQUIRES)
        if raw.get(section) is None
    ]
    wrong += searched_fields.refused_by(trainable, config.base)
    if config.data is None or any(line.startswith(("data", "trainable")) for line in wrong):
        return Preview(), wrong  # what is to be read is wrong itself
    is_model_wrong = any(line.startswith("model") for line in wrong)
    preview = trainable.preview(config.base.model_copy(update={"model": None}) if is_model_wrong else config.base)
    return preview, wrong + list(preview.problems)
