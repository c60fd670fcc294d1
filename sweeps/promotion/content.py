"""Checks before anything is evaluated: base and rows are the sweep's own, and the champion can be compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, HostsDied
from cluster.scoring import Scoring
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, NotStored, SweepError
from sweeps.promotion import version_files
from sweeps.promotion.context import Context
from sweeps.tracking.registry import IDENTITY, Version
from trainables.errors import TrainableError
from trainables.scoring import requests, tokenizer_files
from trainables.scoring.requests import BaseFacts


@dataclass(frozen=True)
class Content:
    """What was checked."""

    base_identity: str
    """Base and quantisation: only adapters of the same ones can be compared."""
    champion_adapter: Mapping[str, bytes] | None
    """None when there is no champion, or --force promotes without a comparison with it."""
    rows_in_train: int
    """How many rows of --eval-data were said to be in data.train too, at a look at the first ones."""
    eval_data: bytes | None
    """The file of --eval-data as it was before that look: it may change until it is sent."""


def find_champion(context: Context) -> Version | None:
    """The version that the alias points to now; None when there is none.

    Raises:
        SweepError: the model's name is taken by something else, or the version was not made by qsweep.
    """
    context.registry.model(context.model)
    champion = context.registry.at(context.model, context.alias)
    if champion is not None and IDENTITY not in champion.tags:
        raise SweepError(
            f"{context.model}: version {champion.number}, its {context.alias}, was not made by qsweep: there is no "
            "adapter to compare with; move the alias or choose another"
        )
    return champion


def check(context: Context, champion: Version | None, scored: Scoring) -> Content:
    """Checks that base and rows are still those that the sweep began with, and that the champion is on this base.

    Raises:
        ConfigError: the rows of --eval-data are wrong.
        SweepError: base or rows are not there, or differ and the request does not force.
    """
    file = context.request.eval_data
    rows, in_train = (None, 0) if file is None else _check_rows(context, file)
    try:
        fingerprints = scored.fingerprint()
    except HostsDied:
        raise
    except (ClusterError, TrainableError) as error:
        raise SweepError(
            f"{error}: promotion evaluates on the sweep's own base and rows: put it there, run this where the "
            "sweep ran, or give --address of a cluster that has it"
        ) from None
    if not context.sweep.fingerprints:
        context.say("warning: an earlier version ran this sweep: whether base and data are still its own is not known")
    for name, before in context.sweep.fingerprints.items():
        if fingerprints.get(name, before) != before:
            context.force(f"{name}: its content is not what the sweep began with")
    identity = _base_identity(context.sweep.config, fingerprints)
    adapter = None if champion is None else _champion_adapter(context, champion, identity, scored)
    if isinstance(adapter, str):
        context.force(adapter)
        adapter = None
    return Content(identity, adapter, in_train, rows)


def _check_rows(context: Context, file: Path) -> tuple[bytes, int]:
    """Warns of what is odd in the first rows of a file; returns its content, and how many are also in data.train."""
    data = context.sweep.config.base.data_spec
    problems = requests.check_rows(data, str(file))
    if problems:
        raise ConfigError(problems)
    content = file.read_bytes()
    look = requests.look_at_rows(data, str(file))
    if look.problems:
        raise ConfigError(look.problems)
    for warning in look.warnings:
        context.say(f"warning: {warning}")
    return content, look.test_rows_in_train


def _base_identity(config: SweepConfig, fingerprints: Mapping[str, str]) -> str:
    quantization = config.quantization
    double = " double" if quantization.scheme != "none" and quantization.double_quant else ""
    return f"{fingerprints['model']} {quantization.scheme}{double}"


def _without_revision(identity: str) -> str:
    """The identity of a base; of a hub model all its revisions have one: `moved_base` compares what they stand for."""
    return re.sub(r"^(hub:\S+)@\S+", r"\1", identity)


def moved_base(theirs: Mapping[str, Any], ours: BaseFacts) -> str | None:
    """How a champion's base differs from this sweep's of the same source; None where it does not.

    A branch moves. Commits with the same weights are one base. A file in a package may have other weights in another
    version of the package.

    Args:
        theirs: what the champion's package says of its base.
        ours: the base that promotion evaluates on.
    """
    if ours.files and theirs["files"] == ours.files:
        return None
    if theirs["kind"] != "hub":
        return f"{ours.source} of another version of the package, with other weights"
    if theirs["revision"] == ours.revision:
        return None
    its = theirs["revision"]
    return f"{ours.source} at {its}, this sweep at {ours.revision}: one with model.revision={its} compares with it"


def _champion_adapter(
    context: Context, champion: Version, base_identity: str, scored: Scoring
) -> dict[str, bytes] | str:
    """The champion's adapter, or why it cannot be compared with."""
    who = f"{context.model}: its {context.alias}, version {champion.number},"
    identity = champion.tags.get("base.identity", "unknown")
    if _without_revision(identity) != _without_revision(base_identity):
        return f"{who} is on another base ({identity}) than this sweep ({base_identity})"
    try:
        files = version_files.fetch(context.lookup, context.model, champion)
    except NotStored as error:
        return f"{who} cannot be compared with: its files are gone ({error})"
    # An adapter looks worse than it is on rows in a form that it was not trained on.
    form, data = version_files.row_form(files), context.sweep.config.base.data_spec
    if form != data.model_dump(include=set(form)):
        return f"{who} reads rows in another form (prompt, completion, messages, text or system) than this sweep"
    theirs, ours = version_files.base(files), scored.base_facts()
    # `base_identity` holds the content of other local bases.
    if theirs["kind"] == "hub" or theirs["source"].startswith("package:"):
        moved = moved_base(theirs, ours)
        if moved is not None:
            return f"{who} is on another base ({moved})"
    tokenizer = version_files.tokenizer(files)
    if not tokenizer:
        context.say(f"warning: {who} has no tokenizer in its package: whether it is this sweep's is not known")
        return version_files.adapter(files)
    other = tokenizer_files.difference(tokenizer, ours.tokenizer, of_chats=data.text is None)
    if other is not None:
        return f"{who} was trained with another {other} than this sweep"
    return version_files.adapter(files)
