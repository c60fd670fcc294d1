"""Checks the model and the data of a sweep with the hub, before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainables.base import base_model, model_files, model_source
from trainables.contract import LookedUp
from trainables.data import sources
from trainables.errors import DataError
from trainables.hub import client
from trainables.specs import DataSpec, ModelSpec, TrialSpec


def look_up(base: TrialSpec, cache: Path) -> LookedUp:
    """Asks the hub about the model and the data, unless they are local or the quantised model is in `cache`."""
    answers = [_model(base, cache), *_data(base.data_spec)]
    return LookedUp(
        problems=tuple(line for part in answers for line in part.problems),
        unreachable=tuple(line for part in answers for line in part.unreachable),
        notices=tuple(line for part in answers for line in part.notices),
    )


def fetch_config(model: ModelSpec) -> bool:
    """Downloads the configuration of a hub model into the local cache, unless it is there; whether it was fetched."""
    if model_source.locate(model.source).kind != "hub" or model_files.cached(model) is not None:
        return False
    client.ask(model.source, "model", model.revision)
    return model_files.cached(model) is not None


def _model(base: TrialSpec, cache: Path) -> LookedUp:
    model = base.base_model
    if model_source.locate(model.source).kind != "hub":
        return LookedUp(notices=_doubts(model))
    if base_model.is_made(base, cache):
        return LookedUp()
    answer = client.ask(model.source, "model", model.revision)
    near = model_source.close_names(Path(model.source).absolute())
    if answer.refusal is not None:
        return LookedUp(problems=(f"model.source: {model.source!r}: {answer.refusal}{near}",))
    if answer.unreachable is not None:
        if (lacking := _lacking_in_cache(model)) is not None:
            return LookedUp(unreachable=(f"model.source: {model.source!r}: {_unreached(answer)}, and {lacking}{near}",))
    elif (lacking := model_files.lacking(answer.files, model.trust_remote_code)) is not None:
        return LookedUp(problems=(f"model.source: {model.source!r}: {lacking}",))
    # Checks again, because the configuration is in the cache now.
    return LookedUp(problems=tuple(model_source.check(model)), notices=_doubts(model))


def _doubts(model: ModelSpec) -> tuple[str, ...]:
    doubt = model_source.doubt(model)
    rest = "whether it is a causal decoder-only language model is checked when it is loaded"
    return () if doubt is None else (f"model.source {model.source}: {doubt}: {rest}",)


def _lacking_in_cache(model: ModelSpec) -> str | None:
    """Returns what is missing of the model in the local cache of the hub, or None."""
    folder = model_files.cached(model)
    if folder is None:
        return "the model is not in its cache on this machine: connect, or name a folder"
    lacking = model_files.lacking([path.name for path in folder.iterdir()], model.trust_remote_code)
    return None if lacking is None else f"its cache on this machine holds only a part of the model ({lacking})"


def _data(data: DataSpec) -> Iterator[LookedUp]:
    asked: dict[str, sources.SplitName] = {}
    for split in sources.SPLITS:
        source: str | None = getattr(data, split)
        try:
            if source is not None and not sources.is_local(source):
                asked.setdefault(source.partition(":")[0], split)
        except DataError:
            continue  # the check of the data reports the reason
    for name, split in asked.items():
        answer = client.ask(name, "dataset", data.revision)
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


def _unreached(answer: client.HubReply) -> str:
    return f"the hub cannot be reached ({answer.unreachable})"
