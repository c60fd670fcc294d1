"""Asks the hub about the model and the data of a sweep, before anything is started.

Sends each request once, with a timeout of seconds: the downloads of huggingface_hub would retry for half a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables import timeouts
from trainables.base import base_model, model_files, model_source
from trainables.contract import LookedUp
from trainables.data import sources
from trainables.errors import DataError
from trainables.specs import DataSpec, ModelSpec, TrialSpec

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class _Reply:
    """The answer of the hub; one of the three fields is set."""

    files: frozenset[str] = frozenset()
    """Names of the files at the revision, without those in folders."""
    refusal: str | None = None
    """Why the hub refuses access: its own reason, and what to do."""
    unreachable: str | None = None
    """Why the hub did not answer."""


def look_up(base: TrialSpec, cache: Path) -> LookedUp:
    """Asks the hub about the model and the data, unless they are local or the quantised model is in `cache`."""
    answers = [_model(base, cache), *_data(base.data_spec)]
    return LookedUp(
        problems=tuple(line for part in answers for line in part.problems),
        unreachable=tuple(line for part in answers for line in part.unreachable),
        notices=tuple(line for part in answers for line in part.notices),
    )


def fetch_config(model: ModelSpec) -> bool:
    """Downloads the configuration of a hub model into the local cache, unless it is there. Returns whether it did."""
    if model_source.locate(model.source).kind != "hub" or model_files.cached(model) is not None:
        return False
    _ask(model.source, "model", model.revision)
    return model_files.cached(model) is not None


def _model(base: TrialSpec, cache: Path) -> LookedUp:
    model = base.base_model
    if model_source.locate(model.source).kind != "hub":
        return LookedUp(notices=_doubts(model))
    if base_model.is_made(base, cache):
        return LookedUp()
    answer = _ask(model.source, "model", model.revision)
    near = model_source.close_names(Path(model.source).absolute())
    if answer.refusal is not None:
        return LookedUp(problems=(f"model.source: {model.source!r}: {answer.refusal}{near}",))
    if answer.unreachable is not None:
        if (lacking := _lacking_in_cache(model)) is not None:
            return LookedUp(unreachable=(f"model.source: {model.source!r}: {_unreached(answer)}, and {lacking}{near}",))
    elif (lacking := model_files.lacking(answer.files, model.trust_remote_code)) is not None:
        return LookedUp(problems=(f"model.source: {model.source!r}: {lacking}",))
    # Checks again, because the configuration is in the cache now.
    return LookedUp(problems=tuple(model_source.check_model(model)), notices=_doubts(model))


def _doubts(model: ModelSpec) -> tuple[str, ...]:
    doubt = model_source.doubt(model)
    rest = "whether it is a causal decoder-only language model is checked when it is loaded"
    return () if doubt is None else (f"model.source {model.source}: {doubt}: {rest}",)


def _lacking_in_cache(model: ModelSpec) -> str | None:
    """Returns which files of the model are missing in the local cache of the hub, or None."""
    folder = model_files.cached(model)
    if folder is None:
        return "the model is not in its cache on this machine: connect, or name a folder"
    lacking = model_files.lacking([path.name for path in folder.iterdir()], model.trust_remote_code)
    return None if lacking is None else f"its cache on this machine holds only a part of the model ({lacking})"


def _data(data: DataSpec) -> Iterator[LookedUp]:
    asked: dict[str, sources.SplitName] = {}
    for split in sources.SPLITS:
        source = getattr(data, split)
        try:
            if source is not None and not sources.is_local(source):
                asked.setdefault(source.partition(":")[0], split)
        except DataError:
            continue  # the check of the data reports the reason
    for name, split in asked.items():
        answer = _ask(name, "dataset", data.revision)
        if answer.refusal is not None:
            yield LookedUp(problems=(f"data.{split}: {name!r}: {answer.refusal}",))
        elif answer.unreachable is not None and not _is_cached(name):
            rest = "the data set is not in its cache on this machine: connect, or give a file"
            yield LookedUp(unreachable=(f"data.{split}: {name!r}: {_unreached(answer)}, and {rest}",))


def _is_cached(name: str) -> bool:
    """Tells whether the data set may be in the cache of `datasets`, which names it owner___name (5.x, builder.py)."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE)
    kept = name.replace("/", "").replace("_", "").lower()
    return folder.is_dir() and any(path.name.replace("_", "").lower() == kept for path in folder.iterdir())


def _unreached(answer: _Reply) -> str:
    return f"the hub cannot be reached ({answer.unreachable})"


def _ask(name: str, kind: Literal["model", "dataset"], revision: str | None) -> _Reply:
    """Asks the hub. Downloads the configuration of a model into the local cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        info = api.repo_info(name, repo_type=kind, revision=revision, timeout=timeouts.HUB)
        siblings = getattr(info, "siblings", None) or ()
        files = frozenset(file.rfilename for file in siblings if "/" not in file.rfilename)
        if kind == "model" and "config.json" in files:
            hf_hub_download(name, "config.json", revision=revision, etag_timeout=timeouts.HUB)
        elif getattr(info, "gated", False):
            api.auth_check(name, repo_type=kind)
        return _Reply(files=files)
    except OfflineModeIsEnabled:
        return _Reply(unreachable="it is switched off by HF_HUB_OFFLINE")
    except HfHubHTTPError as error:
        return _judged(error)
    # Errors of the HTTP library, whose types differ by version, and answers of a proxy instead of the hub.
    except Exception as error:
        return _Reply(unreachable=_line(str(error)) or type(error).__name__)


def _judged(error: Exception) -> _Reply:
    """Turns an HTTP error into an answer. Only an error of the hub itself is a refusal, not one of a proxy."""
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    said = getattr(error, "server_message", None)
    reason = _line(said) if said else _line("\n".join(str(error).splitlines()[1:]))
    match error:
        case GatedRepoError():
            way_out = f"ask for access on its page, and {_LOG_IN}"
        case RepositoryNotFoundError():
            way_out = f"check the name; for a private one, {_LOG_IN}"
        case RevisionNotFoundError():
            way_out = "check the revision"
        case DisabledRepoError():
            way_out = "choose another"
        case _ if said and getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
            way_out = _LOG_IN
        case _:
            return _Reply(unreachable=_line(str(error)))
    return _Reply(refusal=f"the hub says: {reason}: {way_out}")


def _line(text: str) -> str:
    """Returns the first line that is not blank, without its full stop."""
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "")
