"""Reads a sweep file and its overrides; checks all of it in one pass, before Ray is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import search_spaces
from cluster import gpu_table
from search_spaces import SpaceError, domains
from search_spaces.domains import Domain
from search_spaces.space import SearchSpace
from sweeps.config import checks, components, messages, resource, searched_fields, yaml_files
from sweeps.config.model import ELSEWHERE, LENGTHS, SweepConfig, size_bytes
from sweeps.config.uris import absolute_uri, is_object_store
from sweeps.config.yaml_files import section
from sweeps.errors import ConfigError
from trainables.contract import Preview, Trainable
from trainables.data import sources
from trainables.errors import DataError
from trainables.grading import catalogue as grading
from trainables.inputs import own_code, paths
from trainables.inputs.similar import did_you_mean

RECIPES = Path(__file__).parent.parent / "recipes"
PROFILES = Path(__file__).parents[2] / "cluster" / "profiles"
_TEXTS = ("data.prompt", "data.completion", "data.text", "data.system")
_LENGTH_KEYS = [f"budget.{name}" for name in LENGTHS]
_OF_LENGTHS = ("budget", "scheduler", "training", "search_space", "data", "trainable")
"""Sections whose mistakes hide where a trial's report points lie."""
_UNSEEN = Preview()


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep that may be launched: its resolved configuration and its search space."""

    config: SweepConfig
    space: SearchSpace
    preview: Preview = _UNSEEN
    """Preview of the local data."""
    notices: tuple[str, ...] = ()
    """Lines on parts of the search space that are left out, and on ranks that a server does not take."""
    fingerprints: Mapping[str, str] | None = None
    """Those of a sweep that begins, where they were computed before its folder was made."""


def recipes() -> dict[str, str]:
    """Returns the shipped sweep files: name -> first comment line."""
    first_lines = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        first_lines[path.stem] = first.lstrip("# ").strip()
    return first_lines


Change = str | tuple[str, Any]
"""An override: `dotted.key=YAML value`, or the key and the value itself."""


def load(
    file: str | None, changes: Sequence[Change], folder: Path, elsewhere: Sequence[str] | None = None
) -> LoadedSweep:
    """Loads the sweep that a file and its overrides describe.

    Args:
        file: a YAML file, or the name of a recipe; None if there are only overrides.
        folder: the current folder, for relative paths in overrides and storage.
        elsewhere: for a sweep that runs on other machines, the fields whose files are only there. These files are not
            checked, nor whether `storage` and `tracking.uri` can be written here. None if the sweep runs here.

    Raises:
        ConfigError: has a line for each mistake in the file and the overrides.
    """
    raw, wrong = read_sweep_file(file, changes, folder)
    wrong += apply_profile(raw)
    if found := checks.secrets(raw):
        raise ConfigError(found)  # Other messages would show the values.
    config, mistakes = _validate(raw, None if elsewhere is None else ELSEWHERE)
    wrong += mistakes
    trainable, mistakes = checks.find_trainable(raw, config)
    wrong += mistakes
    notices: list[str] = []
    space, space_mistakes = _space(raw.get("search_space", config.search_space))
    wrong += space_mistakes
    if space is not None:
        space, mistakes, notices = _checked_space(config, space, trainable, is_whole=not wrong)
        wrong += mistakes
        wrong += searched_fields.fields_together(space) if not space_mistakes else []
        notices += checks.served_ranks(config, space)
    # A mistake in evaluation hides valid metrics.
    if trainable is not None and not any(line.startswith("evaluation") for line in wrong):
        wrong += checks.objectives(config, trainable) + checks.promotion_metric(config, trainable)
        wrong += checks.nested_rows(config, trainable)
    preview, mistakes = checks.local_files(raw, config, trainable) if trainable is not None else (Preview(), [])
    wrong += [line for line in mistakes if not line.startswith(tuple(f"{field}:" for field in elsewhere or ()))]
    are_rows_right = not any(line.startswith(("data", "trainable")) for line in mistakes)
    wrong += checks.promotion_rows(config) if are_rows_right and elsewhere is None else []
    resolved = _with_absolute_places(config, folder)
    wrong += checks.paths_are_text(resolved) or (checks.writable_places(resolved) if elsewhere is None else [])
    wrong += checks.alias("promotion.alias", config.promotion.alias)
    wrong += checks.budget(raw, config) + checks.gpu(config) + checks.refit_keys(config)
    if trainable is not None:
        resolved = checks.stopping_metric(resolved, trainable)
    if space is not None and not any(line.startswith(_OF_LENGTHS) for line in wrong):
        resolved, mistakes = resource.with_examples(resolved, space, preview.train_rows)
        wrong += mistakes + checks.grace(raw, resolved)
    if wrong or space is None:
        raise ConfigError(wrong)
    return LoadedSweep(resolved.model_copy(update={"search_space": space.to_raw()}), space, preview, tuple(notices))


def read_sweep_file(file: str | None, changes: Sequence[Change], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Reads a file with its overrides; returns it with absolute paths, and a line for each wrong override.

    Raises:
        ConfigError: the file does not exist or holds no mapping.
    """
    beside, raw = folder, dict[str, Any]()
    if file is not None:
        path = _find(file, folder)
        beside, raw = path.parent, yaml_files.read_yaml(path)
    _resolve_paths(raw, beside)
    _name_facts(raw)
    wrong = override(raw, changes, lambda part: _resolve_paths(part, folder))
    wrong += _model_elsewhere(raw, beside, folder)
    _name_facts(raw)
    data = section(raw, "data")
    if data.get("test") is None:
        data.setdefault("test_examples", "auto")
    elif data.get("test_examples") == "auto":
        data["test_examples"] = None
    if data.get("eval") is None or data.get("test_examples") is not None:
        data.setdefault("hold_out", "drawn")
        data.setdefault("copies", "together")
    return raw, wrong


def written(config: SweepConfig) -> str:
    """Writes a sweep file that `load` reads as this configuration: values other than defaults, with absolute paths."""
    raw = config.model_dump(mode="json", exclude_defaults=True)
    for name in components.SECTIONS:  # exclude_defaults drops every kind, also one that is not the section's default
        raw[name] = {"kind": getattr(config, name).kind, **raw.get(name, {})}
    if config.data is not None:
        # a sweep file has other defaults
        raw["data"] |= config.data.model_dump(include={"hold_out", "test_examples", "copies"})
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


def override(
    raw: dict[str, Any], changes: Sequence[Change], resolve_paths: Callable[[dict[str, Any]], None]
) -> list[str]:
    """Changes `raw` in place; returns a line for each mistake in the overrides themselves.

    The text after `search_space.` is one key, because the fields of a space hold a dot. A named space is expanded
    before one of its fields changes. An override of a `kind` drops the keys that the new kind does not have. An
    override of the trial length drops the file's own key for the length. `cluster.gpu` drops a `gpu_memory` of the file
    that this type does not have. A template that YAML does not read as text, such as data.prompt={question}, is taken
    as typed. `resolve_paths` makes relative paths absolute, in a mapping shaped like the sweep file.
    """
    wrong: list[str] = []
    given = [change if isinstance(change, tuple) else _parsed(change, wrong) for change in changes]
    pairs = [pair for pair in given if pair is not None]
    overridden = {key for key, _ in pairs}
    for key, value in pairs:
        if value is not None and key in _LENGTH_KEYS and isinstance(budget := raw.get("budget"), dict):
            said = {name for name in LENGTHS if f"budget.{name}" not in overridden}
            raw["budget"] = {name: kept for name, kept in budget.items() if name not in said}
        if key == "cluster.gpu" and "cluster.gpu_memory" not in overridden:
            _drop_other_memory(raw, str(value))
        first, dot, rest = key.partition(".")
        parts = [first, rest] if first == "search_space" and dot else key.split(".")
        problem = _set(raw, parts, value, resolve_paths)
        if problem is not None:
            wrong.append(f"{key}: {problem}")
    return wrong


def _parsed(change: str, wrong: list[str]) -> tuple[str, Any] | None:
    """Returns key and value of `dotted.key=YAML value`; or adds a line to `wrong` and returns None."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        wrong.append(f"{change}: an override is key=value, for example budget.trials=4")
        return None
    try:
        value = yaml_files.parse(text)
    except yaml.YAMLError as error:
        if key not in _TEXTS:
            quoted = f"{text!r} is not a YAML value; quote it for the shell, for example '{key}={{choice: [8]}}'"
            wrong.append(f"{key}: {error.problem if isinstance(error, yaml_files.OldNumber) else quoted}")
            return None
        value = text
    is_text = value is None or isinstance(value, str)
    return key, value if is_text or key not in _TEXTS else text


def _drop_other_memory(raw: dict[str, Any], gpu: str) -> None:
    cluster = section(raw, "cluster")
    with suppress(ValueError):  # the check of the whole file refuses a memory that is no size
        if gpu_table.contradiction(gpu, size_bytes(str(cluster.get("gpu_memory")))) is not None:
            raw["cluster"] = {key: value for key, value in cluster.items() if key != "gpu_memory"}


def _set(
    raw: dict[str, Any], parts: list[str], value: object, resolve_paths: Callable[[dict[str, Any]], None]
) -> str | None:
    if parts[0] == "search_space" and len(parts) == 2:
        return _set_field(raw, parts[1], value)
    change: dict[str, Any] = {parts[-1]: value}
    for part in reversed(parts[:-1]):
        change = {part: change}
    resolve_paths(change)
    for name, kind in components.SECTIONS.items():
        if parts == [name, "kind"] and isinstance(raw.get(name), dict):
            known = components.keys(kind, str(value)) if str(value) in components.modules(kind) else {"kind"}
            raw[name] = {key: kept for key, kept in raw[name].items() if key in known}
    at = raw
    for part in parts[:-1]:
        change = change[part]
        if at.get(part) is None:
            at[part] = {}
        if not isinstance(at[part], dict):
            return f"{part} is {at[part]!r}, which has no keys"
        at = at[part]
    at[parts[-1]] = change[parts[-1]]
    return None


def _set_field(raw: dict[str, Any], field: str, value: object) -> str | None:
    space = raw.get("search_space", SweepConfig.model_fields["search_space"].default)
    if isinstance(space, str):
        try:
            space = search_spaces.load(space).to_raw()
        except SpaceError:
            return None  # the check of the space refuses an unknown name
    if not isinstance(space, Mapping):
        return "search_space is not a mapping of fields to domains"
    raw["search_space"] = {**space, field: value}
    return None


def _find(file: str, folder: Path) -> Path:
    path = folder / file
    recipe = RECIPES / f"{file}.yaml"
    if paths.is_file(path):
        return path.resolve()
    if "/" not in file and paths.is_file(recipe):
        return recipe
    if paths.is_folder(path):
        raise ConfigError([f"{file}: is a folder ({path}): name a sweep file, or go on with a sweep by qsweep resume"])
    near = [p.name for p in path.parent.glob("*.yaml")] if paths.is_folder(path.parent) else []
    hint = did_you_mean(file, [*recipes(), *near])
    raise ConfigError(
        [f"{file}: no such file ({path}), and no recipe of that name{hint} (recipes: {', '.join(recipes())})"]
    )


def _validate(raw: Mapping[str, Any], context: object) -> tuple[SweepConfig, list[str]]:
    """Returns the configuration and a line for each mistake. A wrong section gets defaults, so that all are checked."""
    try:
        return SweepConfig.model_validate(raw, context=context), []
    except ValidationError as error:
        wrong = {place for detail in error.errors() for place in detail["loc"][:1]}
        right = {key: value for key, value in raw.items() if isinstance(key, str) and key not in wrong}
        rest = SweepConfig.model_validate({"name": "unnamed", **right}, context=context)
        return rest, messages.of_validation(error, raw)


def _space(raw: object) -> tuple[SearchSpace | None, list[str]]:
    """Returns the space and a line for each mistake. Wrong fields are left out, so that the others are checked too."""
    try:
        if isinstance(raw, str):
            return search_spaces.load(raw), []
        if isinstance(raw, Mapping):
            return SearchSpace.parse(raw), []
    except SpaceError as error:
        lines = [line if line.startswith("search_space") else f"search_space.{line}" for line in error.problems]
        return _right_part(raw) if isinstance(raw, Mapping) else None, lines
    return None, []  # the check of the configuration refuses any other type


def _checked_space(
    config: SweepConfig, space: SearchSpace, trainable: Trainable | None, is_whole: bool
) -> tuple[SearchSpace, list[str], list[str]]:
    """Returns the space with whole points in its portfolio, a line for each mistake, and a line for each omission."""
    space = searched_fields.with_base(config, space)
    notices: list[str] = []
    wrong = searched_fields.mistakes(config, space, trainable)
    if not wrong:
        wrong = searched_fields.explicit_points(config, space, trainable)
    if config.searcher.kind == "prior" and not is_whole:
        return space, wrong, []  # a part that is left out may hold the prior
    if not wrong:
        space, mistakes, notices = searched_fields.portfolio(config, space)
        wrong += mistakes
        if mistakes:
            return space, wrong, []  # the searcher would report the portfolio again
    return space, wrong + config.searcher.check(space), notices if config.searcher.kind == "prior" else []


def _right_part(raw: Mapping[Any, Any]) -> SearchSpace | None:
    right: dict[str, Domain] = {}
    for field, domain in raw.items():
        with suppress(SpaceError):
            right[str(field)] = domains.parse(str(field), domain)
    for part in (right, {field: replace(domain, when=()) for field, domain in right.items()}):
        with suppress(SpaceError):  # if the conditions contradict each other, check the values without conditions
            return SearchSpace(part)
    return None


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths in `raw` absolute; `folder` is the start of relative ones."""
    model = section(raw, "model")
    for part, key in ((model, "source"), (section(model, "facts"), "of")):
        if isinstance(source := part.get(key), str) and _is_model_path(source, folder):
            part[key] = _absolute(source, folder)
    data = section(raw, "data")
    for split in {"train", "eval", "test"} & data.keys():
        data[split] = _data_place(data[split], folder)
    guards = section(raw, "promotion").get("guards")
    for guard in guards if isinstance(guards, list) else []:
        if isinstance(guard, dict) and isinstance(file := guard.get("data"), str):
            guard["data"] = _absolute(file, folder)
    cluster = section(raw, "cluster")
    if isinstance(profile := cluster.get("profile"), str) and profile.endswith(".yaml"):
        cluster["profile"] = _absolute(profile, folder)
    if isinstance(own := raw.get("trainable"), str) and own_code.parts(own)[0].endswith(".py"):
        raw["trainable"] = _absolute(own, folder)
    evaluation = section(raw, "evaluation")
    if isinstance(entries := evaluation.get("metrics"), list):
        evaluation["metrics"] = grading.with_files(entries, folder)


def _model_elsewhere(raw: Mapping[str, Any], beside: Path, folder: Path) -> list[str]:
    """Refuses a model path that exists in the current folder only, while the sweep file lies elsewhere."""
    source = section(raw, "model").get("source")
    if not isinstance(source, str) or not source or source.startswith(("package:", "/", "~")):
        return []
    there = folder / source
    if not paths.is_folder(there) and not paths.is_file(there):
        return []
    rule = f"a path in a sweep file is relative to the file, so to {beside}"
    return [f"model.source: {source!r} is in the current folder, but {rule}: write {there}"]


def _name_facts(raw: Mapping[str, Any]) -> None:
    """Fills in model.facts.of, so that the facts are not used for another model that an override names."""
    model = section(raw, "model")
    facts = section(model, "facts")
    if facts.get("of") is None:
        facts["of"] = model.get("source")


def _absolute(path: str, folder: Path) -> str:
    return str(paths.absolute(folder / paths.at_home(Path(path))))


def _is_model_path(source: str, folder: Path) -> bool:
    if not source or source.startswith("package:"):
        return False
    if source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        return True
    path = folder / source
    # OWNER/NAME counts as a path if OWNER is a folder here: then NAME is probably a typo, not a hub id.
    return paths.is_file(path) or paths.is_folder(path) or ("/" in source and paths.is_folder(path.parent))


def _data_place(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_data_place(each, folder) for each in value]
    return _absolute(value, folder) if isinstance(value, str) and _is_data_path(value, folder) else value


def _is_data_path(source: str, folder: Path) -> bool:
    try:
        if not source or paths.is_folder(folder / source) or sources.is_local(source):
            return bool(source)
    except DataError:
        return False  # the check of the data says why
    # As for models, OWNER/NAME counts as a path if OWNER is a folder here.
    return "/" in source and paths.is_folder((folder / source.partition(":")[0]).parent)


def apply_profile(raw: dict[str, Any]) -> list[str]:
    """Adds the profile's values to `raw` where the file gives none; returns a line for each mistake in the profile."""
    given = raw.get("cluster", {})
    if not isinstance(given, dict):
        return []
    name = given.get("profile", "local")
    if not isinstance(name, str):
        return []
    shipped = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    path = Path(name) if name.endswith(".yaml") else PROFILES / f"{name}.yaml"
    if not paths.is_file(path):
        return [f"cluster.profile: {messages.unknown('profile', name, shipped)}"]
    try:
        profile = yaml_files.read_yaml(path)
    except ConfigError as error:
        return list(error.problems)
    beside: dict[str, Any] = {key: profile.pop(key) for key in ("storage", "tracking") if key in profile}
    _put_under(raw, {**beside, "cluster": profile})
    return []


def _put_under(given: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Adds the keys that `given` lacks, also in mappings that both have."""
    for key, value in defaults.items():
        if given.get(key) is None:
            given[key] = value
        elif isinstance(given[key], dict) and isinstance(value, Mapping):
            _put_under(given[key], value)


def _with_absolute_places(config: SweepConfig, folder: Path) -> SweepConfig:
    storage = config.storage if is_object_store(config.storage) else _absolute(config.storage, folder)
    tracking = config.tracking.model_copy(update={"uri": absolute_uri(config.tracking.uri, folder)})
    return config.model_copy(update={"storage": storage, "tracking": tracking})
