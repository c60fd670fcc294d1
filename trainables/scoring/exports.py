"""Requests to write an adapter in a form that servers read, and what the written files score. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from trainables.scoring.requests import Sample
from trainables.specs import Spec

Form = Literal["peft", "merged", "gguf"]
"""peft: the PEFT folder. merged: base and adapter as one model in 16 bits. gguf: the adapter as llama.cpp reads it."""


class ExportRequest(Spec):
    """A request to write an adapter, and to score what was written."""

    form: Form
    folder: str
    """Where the files go: a folder on this machine that is there."""
    name: str
    """The file's name without its end, for gguf."""
    adapter: Mapping[str, bytes] = Field(repr=False)
    """Files of the PEFT folder."""
    tokenizer: Mapping[str, bytes] = Field(repr=False)
    """Files of the tokenizer, which go beside a merged model."""
    base_files: Mapping[str, str]
    """As `BaseFacts.files`: the base must be the one that was promoted on."""
    ends: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """The tokens that ended answers in training: a merged model stops there too."""
    rows: Annotated[tuple[Sample, ...], Field(strict=False)]


class ExportResult(Spec):
    """What the written files score."""

    hardware: str
    """As `Evaluation.hardware`."""
    row_losses: Annotated[tuple[float, ...], Field(strict=False)]
    """Negative log-likelihood of each row, in nats."""
