"""Writes an adapter in a form that servers read, reads the written files back, and scores them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from trainables.base import base_model, model_source
from trainables.data.dataset import TokenRow
from trainables.errors import ModelError
from trainables.packing.batches import pad, padded_losses
from trainables.scoring import gguf_adapter, gguf_model
from trainables.scoring.adapter_scorer import digests
from trainables.scoring.requests import ExportRequest, ExportResult, Sample
from trainables.specs import TrialSpec

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export(spec: TrialSpec, request: ExportRequest, cache: Path) -> ExportResult:
    """Writes the files, and scores them.

    Args:
        spec: gives the base and its quantisation. A merged model of a quantised base has the dequantised weights.

    Raises:
        ModelError: the base has other weights than in the promotion, or the form cannot hold the adapter.
    """
    out, base = Path(request.folder), base_model.load(spec, cache)
    _check_base(spec, base, request)
    device, hardware = base.device, base.hardware
    if "merged" in request.form:
        dtype = base.dtype if base.dtype.itemsize == 2 else torch.bfloat16
        hardware = base_model.hardware(device, dtype)
        options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": spec.base_model.trust_remote_code}
        with tempfile.TemporaryDirectory(dir=out.parent) as work:
            merged = out if request.form == "merged" else Path(work)
            _merge(base, request, merged, dtype)
            del base  # keeps only one of the two models in memory
            if request.form == "gguf-merged":
                whole = out / f"{request.name}.gguf"
                gguf_model.write(whole, merged, request.ends)
                options |= {"gguf_file": whole.name, "config": AutoConfig.from_pretrained(merged)}
        model = AutoModelForCausalLM.from_pretrained(out, **options).to(device)
    else:
        if request.form == "gguf":
            written = _through_gguf(out / f"{request.name}.gguf", base.model.config.to_dict(), request)
        else:
            _write(out, request.adapter)
            written = {file.name: file.read_bytes() for file in out.iterdir()}
        with _folder_of(written) as folder:
            model = PeftModel.from_pretrained(base.model, folder)
    model.eval()
    with torch.no_grad():
        losses = [padded_losses(model, pad([_tokens(row)]), device).double().sum() for row in request.rows]
    return ExportResult(hardware=hardware, row_losses=tuple(map(float, losses)))


def _merge(base: base_model.Base, request: ExportRequest, out: Path, dtype: torch.dtype) -> None:
    """Writes base and adapter as one model, which stops at the tokens that ended answers in training."""
    if quantizer := getattr(base.model, "hf_quantizer", None):
        base_model.dequantise(base.model)
        quantizer.remove_quantization_config(base.model)
    with _folder_of(request.adapter) as folder:
        merged = PeftModel.from_pretrained(base.model, folder).merge_and_unload(safe_merge=True).to(dtype)
    merged.config.use_cache = True
    own = merged.generation_config.eos_token_id
    ends = {*([own] if isinstance(own, int) else own or []), *request.ends}
    merged.generation_config.eos_token_id = sorted(ends) or None
    merged.save_pretrained(out)
    _write(out, request.tokenizer)


def _check_base(spec: TrialSpec, base: base_model.Base, request: ExportRequest) -> None:
    """Refuses a base with other weights than in the promotion. A hub model is loaded at the version's commit."""
    source = model_source.locate(spec.base_model.source)
    found = digests(source) if base.origin is None else dict(base.origin.files)
    if found and request.base_files and found != request.base_files:
        raise ModelError(
            f"model.source: {spec.base_model.source!r} holds other weights than the version was promoted on: put those "
            "there again"
        )


def _through_gguf(file: Path, model: Mapping[str, Any], request: ExportRequest) -> dict[str, bytes]:
    """Writes an adapter as GGUF; returns the content of the written file as a PEFT folder."""
    config = json.loads(request.adapter[_CONFIG])
    tensors = {name: each.float().numpy() for name, each in safetensors.torch.load(request.adapter[_WEIGHTS]).items()}
    gguf_adapter.write(file, model, config, tensors)
    alpha, read = gguf_adapter.read_gguf(file, model, tensors)
    plain = config | {"lora_alpha": alpha, "use_rslora": False}
    return {_CONFIG: json.dumps(plain).encode(), _WEIGHTS: safetensors.numpy.save(read)}


def _tokens(row: Sample) -> TokenRow:
    labelled = np.zeros(len(row.ids), bool)
    labelled[list(row.labelled)] = True
    return TokenRow(np.array(row.ids, np.int32), labelled)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@contextmanager
def _folder_of(files: Mapping[str, bytes]) -> Iterator[str]:
    """Yields a folder with these files while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        yield folder
