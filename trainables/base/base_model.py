"""Loads the frozen base model, and quantises it once per machine.

The cache holds one folder per (source, revision, quantisation, compute type). A file lock lets only one sweep write a
folder, and a rename makes the folder appear complete. The folder of a hub model records the commit, as branches move.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.base import base_checks, devices, model_files, model_source, spread
from trainables.cache_files import lock, told_as_cache, work_folder
from trainables.errors import ModelError
from trainables.inputs.installed import version
from trainables.inputs.legible import legible
from trainables.quantization import is_quantised, weight
from trainables.specs import TrialSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ORIGIN = "origin.json"
"""The file in a cached folder that records the commit of its hub model."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Origin:
    """The commit of a hub model that was loaded, and its files."""

    commit: str
    files: Mapping[str, str]
    """The result of `weight_digests`; empty when only the commit is known."""


@dataclass(frozen=True)
class Base:
    """A frozen base model on its device or devices, in evaluation mode, with every parameter frozen."""

    model: PreTrainedModel
    device: torch.device
    """Device of the input tokens and of the outputs; the first of several GPUs (`spread`)."""
    dtype: torch.dtype
    origin: Origin | None = None
    """None for a local model, and for a hub model whose commit is not known."""

    @property
    def hardware(self) -> str:
        """Device and type of the activations, such as "cpu float32". Results on equal hardware agree closely."""
        return hardware(self.device, self.dtype)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that holds a part of the base."""
        return tuple(dict.fromkeys(parameter.device for parameter in self.model.parameters()))


def hardware(device: torch.device, dtype: torch.dtype) -> str:
    """Returns `Base.hardware`."""
    return f"{device.type} {str(dtype).removeprefix('torch.')}"


def load(spec: TrialSpec, cache: Path) -> Base:
    """Loads the base of `spec` onto the GPUs that this process sees, else onto the CPU.

    Raises:
        ModelError: the source cannot be found or loaded, or cannot be spread over several GPUs.
    """
    device = devices.first()
    dtype = devices.compute_dtype(spec.quantization, device)
    folder, revision = _folder(spec, dtype, cache)
    mapped = _device_map(spec, dtype, cache)
    model = _from_pretrained(spec, folder, revision=revision, dtype=dtype, device_map=mapped or {"": device})
    if mapped is not None:
        spread.connect(model, mapped)
    base_checks.refuse_moving_positions(model, spec)
    model.requires_grad_(False)
    model.eval()
    model.config.use_cache = False
    # PEFT writes this as base_model_name_or_path: the configured source, never a path inside the cache.
    model.name_or_path = spec.base_model.source
    keep_gradients(model)
    base_checks.refuse_foresight(spec.base_model.source, model)
    return Base(model, device, dtype, _origin(spec, folder, revision))


def skeleton(spec: TrialSpec, cache: Path) -> PreTrainedModel:
    """Builds the modules of the base without weights, on the meta device. Takes seconds, even for a large model.

    Raises:
        ModelError: the source cannot be found or built.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source, trusted = model_source.locate(spec.base_model.source), spec.base_model.trust_remote_code
    made = cache / "bases" / _key(spec, str(devices.compute_dtype(spec.quantization, devices.first())))
    options: dict[str, Any] = {}
    if made.is_dir():
        origin = str(made)
    elif source.kind == "gguf" and source.path is not None:
        origin, options = str(source.path.parent), {"gguf_file": source.path.name}
    else:
        origin, options = str(source.path or source.text), {"revision": _commit(spec, source)}
    try:
        config = AutoConfig.from_pretrained(origin, trust_remote_code=trusted, **options)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.source: {spec.base_model.source!r} cannot be loaded: {error}") from error
    return model


def load_tokenizer(spec: TrialSpec, cache: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of the base. It pads on the right and has a padding token.

    Raises:
        ModelError: the source has no tokenizer that can be loaded.
    """
    device = devices.first()
    folder, revision = _folder(spec, devices.compute_dtype(spec.quantization, device), cache)
    source = model_source.locate(spec.base_model.source)
    if source.kind == "folder":  # the tokenizer in the cache may be older than an edit
        folder = str(source.path)
    tokenizer = _tokenizer(spec, folder, revision=revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def local_tokenizer(spec: TrialSpec) -> PreTrainedTokenizerBase | None:
    """Loads the tokenizer of a base on this machine from the base's own files; None for a hub model."""
    source = model_source.locate(spec.base_model.source)
    if source.path is None:
        return None
    if source.kind == "folder":
        return _tokenizer(spec, str(source.path))
    return _tokenizer(spec, str(source.path.parent), gguf_file=source.path.name)


def origin_of(spec: TrialSpec, cache: Path) -> Origin | None:
    """Returns the `Base.origin` of a base without loading it. Files that are not on this machine have no digest."""
    return _origin(spec, *_folder(spec, devices.compute_dtype(spec.quantization, devices.first()), cache))


def identity(
    spec: TrialSpec, device: torch.device, dtype: torch.dtype, origin: Origin | None
) -> tuple[str, ...] | None:
    """Returns texts that are equal for bases with equal results; None for a hub model of unknown commit."""
    if origin is None and model_source.locate(spec.base_model.source).kind == "hub":
        return None
    return _key(spec, str(dtype)), hardware(device, dtype), "" if origin is None else origin.commit


def is_made(spec: TrialSpec, cache: Path) -> bool:
    """Tells whether `cache` may hold the quantised base, so that the hub is not needed."""
    if not spec.quantization.traits.is_quantised:
        return False
    asked = spec.quantization.compute_dtype
    types = ("float32", "bfloat16", "float16") if asked == "auto" else (asked,)
    return any((cache / "bases" / _key(spec, f"torch.{name}")).is_dir() for name in types)


def weight_digests(folder: Path) -> dict[str, str]:
    """Returns weight file in a folder -> 64 hex digits over the file's size and samples."""
    paths = model_files.weights(folder)
    return {path.relative_to(folder).as_posix(): model_files.sampled_digest(path) for path in paths}


def _device_map(spec: TrialSpec, dtype: torch.dtype, cache: Path) -> dict[str, torch.device] | None:
    """Returns the GPU of each part of the base; None if the base lies on one device."""
    gpus = devices.gpus()
    if len(gpus) < 2:
        return None
    return spread.device_map(spec.base_model.source, skeleton(spec, cache), gpus, dtype.itemsize, spec.quantization)


def keep_gradients(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16.

    bitsandbytes 0.50.2 (nn/modules.py, Linear4bit.forward) repacks the weights at the first evaluation on such a CPU.
    After that matmul_4bit has no gradient (autograd/_functions.py), and training goes wrong without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Read by Linear4bit.forward; no public switch exists.
            module.support_avx512bf16_for_cpu = False


def dequantise(model: PreTrainedModel) -> None:
    """Replaces each quantised linear layer with a plain one, so that no pass has to dequantise it.

    The numbers stay equal: bitsandbytes computes a training pass with the same dequantised weights
    (autograd/_functions.py, matmul_4bit, 0.50.2). Layers that are not quantised stay.
    """
    import torch

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, torch.nn.Linear) or not is_quantised(layer):
            continue
        whole = weight(layer)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(whole, requires_grad=False)
        if layer.bias is not None:
            plain.bias = torch.nn.Parameter(layer.bias.detach().to(whole.dtype), requires_grad=False)
        plain.train(layer.training)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Recomputes each block's activations in the backward pass, and keeps the rest of the model in evaluation mode.

    transformers checkpoints a block only in training mode (modeling_layers.py, GradientCheckpointingLayer, 5.24), and
    training mode would switch on the dropout of the base. So only the blocks themselves are set to training mode, and
    the dropout that some models (such as OPT) apply in the block itself is set to 0.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
                setattr(module, name, 0.0)


def _folder(spec: TrialSpec, dtype: torch.dtype, cache: Path) -> tuple[str, str | None]:
    """Returns the folder or hub id for `from_pretrained`, and the revision. Makes a cached folder if needed."""
    model = spec.base_model
    source = model_source.locate(model.source)
    if not spec.quantization.traits.is_quantised and source.kind != "gguf":
        return str(source.path or model.source), _commit(spec, source)
    target = cache / "bases" / _key(spec, str(dtype))
    if not target.is_dir():
        with told_as_cache(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with lock(target):
                if not target.is_dir():
                    _make(spec, source, dtype, target, _device_map(spec, dtype, cache))
                    # The host looks next at how much memory is free, before it loads the base once more.
                    devices.give_back()
    return str(target), None


def _commit(spec: TrialSpec, source: model_source.Source) -> str | None:
    """Returns the commit of a hub model's revision, or the revision itself if the commit cannot be read.

    All files are loaded by this commit, because a branch may move between two downloads. The name of the downloaded
    folder is the commit (huggingface_hub 2.4, file_download.py, hf_hub_download). Also refuses a model that is no
    causal language model, since its configuration is on this machine by now.
    """
    revision = spec.base_model.revision
    if source.kind != "hub":
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = Path(hf_hub_download(source.text, "config.json", revision=revision)).parent
    except (OSError, ValueError, EntryNotFoundError):
        return revision
    model_source.refuse_other_kinds(spec.base_model, folder)
    name = folder.name
    return name if _COMMIT.fullmatch(name) else revision


def _origin(spec: TrialSpec, folder: str, revision: str | None) -> Origin | None:
    """Returns the origin of a base that was loaded from `folder` at `revision`; see `Base.origin`."""
    if model_source.locate(spec.base_model.source).kind != "hub":
        return None
    if not spec.quantization.traits.is_quantised:
        return _at(spec, revision)
    try:
        return Origin(**json.loads((Path(folder) / ORIGIN).read_text(encoding="utf-8")))
    except FileNotFoundError:  # the commit was not known when the base was made
        return _at(spec, spec.base_model.revision)


def _at(spec: TrialSpec, revision: str | None) -> Origin | None:
    """Returns the origin of a hub model; None when `revision` is not a commit."""
    from huggingface_hub import try_to_load_from_cache

    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    path = try_to_load_from_cache(spec.base_model.source, "config.json", revision=revision)
    return Origin(revision, weight_digests(Path(path).parent) if isinstance(path, str) else {})


def _key(spec: TrialSpec, dtype: str) -> str:
    quantization = spec.quantization
    parts = [
        model_source.fingerprint(spec.base_model),
        quantization.scheme,
        str(quantization.double_quant),
        dtype,
        version("transformers"),
        version("bitsandbytes"),
    ]
    beside = model_source.read_with_it(spec.base_model)
    parts += [beside[part] for part in ("code", "weights") if part in beside]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(
    spec: TrialSpec,
    source: model_source.Source,
    dtype: torch.dtype,
    target: Path,
    mapped: Mapping[str, torch.device] | None,
) -> None:
    """Writes the folder `target`: the quantised or converted base, and its tokenizer. `mapped`: see `_device_map`."""
    import torch
    from transformers import BitsAndBytesConfig, GgufConfig

    quantization = spec.quantization
    loading = quantization.traits.options(quantization.double_quant, str(dtype).removeprefix("torch."))
    with work_folder(target) as work:
        origin = str(source.path or spec.base_model.source)
        options: dict[str, Any] = {"revision": _commit(spec, source)}
        if source.kind == "gguf" and source.path is not None:
            folder, file = str(source.path.parent), source.path.name
            dequantised = GgufConfig(dequantize=True)
            plain = _from_pretrained(spec, folder, gguf_file=file, quantization_config=dequantised, dtype=torch.float32)
            plain.save_pretrained(work / "plain")
            tokenizer = _tokenizer(spec, folder, gguf_file=file)
            origin, options = str(work / "plain"), {"revision": None}
        else:
            tokenizer = _tokenizer(spec, origin, **options)
        made = work / "made"
        if not loading:
            (work / "plain").rename(made)
        else:
            options |= {"quantization_config": BitsAndBytesConfig(**loading), "dtype": dtype, "device_map": mapped}
            quantised = _from_pretrained(spec, origin, **options)
            quantised.save_pretrained(made)
            known = _at(spec, options["revision"]) if source.kind == "hub" else None
            if known is not None:
                (made / ORIGIN).write_text(json.dumps(asdict(known)), encoding="utf-8")
        tokenizer.save_pretrained(made)
        made.rename(target)


def _tokenizer(spec: TrialSpec, origin: str, **options: Any) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    trusted = spec.base_model.trust_remote_code
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(origin, trust_remote_code=trusted, **options)
    except Exception as error:  # foreign files can make transformers raise anything
        said = legible(str(error), 500) or type(error).__name__
        raise ModelError(f"model.source: {spec.base_model.source!r} has no usable tokenizer: {said}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # transformers 5.24 makes a tokenizer without words when it finds no vocabulary.
        raise ModelError(f"model.source: {spec.base_model.source!r} has no tokenizer: no vocabulary among its files")
    return tokenizer


def _from_pretrained(spec: TrialSpec, origin: str, **options: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel
        model, loaded = AutoModelForCausalLM.from_pretrained(
            origin,
            output_loading_info=True,
            trust_remote_code=spec.base_model.trust_remote_code,
            # A pickle from the network is never opened. A GGUF file is neither.
            use_safetensors=None if "gguf_file" in options else True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model.source: {spec.base_model.source!r} cannot be loaded: {error}") from error
    base_checks.refuse_missing_weights(spec.base_model.source, loaded["missing_keys"])
    return model
