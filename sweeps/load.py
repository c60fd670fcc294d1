"""From a YAML file and overrides to a checked sweep; every problem in one pass, before Ray or torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import search_spaces
from search_spaces.errors import SpaceError
from search_spaces.space import SearchSpace
from sweeps import check, overrides, points, problems, yaml_files
from sweeps.config import SweepConfig
from sweeps.errors import ConfigError
from trainables import rows
from trainables.specs import TrialSpec

RECIPES = Path(__file__).parent / "recipes"
PROFILES = Path(__file__).parent.parent / "cluster" / "profiles"


@dataclass(frozen=True)
class Sweep:
    """A sweep that may be launched: its resolved configuration and its search space."""

    config: SweepConfig
    space: SearchSpace


def recipes() -> dict[str, str]:
    """Shipped sweep files: name -> first comment line."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        first = path.read_text().split("\n", 1)[0]
        found[path.stem] = first.lstrip("# ").strip()
    return found


def load(file: str, changes: Sequence[str], folder: Path) -> Sweep:
    """The sweep that a file and its overrides describe.

    Args:
        file: a YAML file, or the name of a recipe.
        changes: overrides, `dotted.key=YAML value` each.
        folder: the current folder, for relative paths in overrides and storage.

    Raises:
        ConfigError: holds every problem that was found.
    """
    path = _find(file, folder)
    raw = yaml_files.read(path)
    _resolve_paths(raw, path.parent)
    wrong = overrides.apply(raw, changes, lambda part: _resolve_paths(part, folder))
    wrong += _apply_profile(raw)
    config, found = _validate(raw)
    wrong += found
    space, found = _space(raw.get("search_space", "lora_core"))
    wrong += found
    if space is not None:
        base = config.base if config is not None else TrialSpec()
        found = check.fields(space)
        if not found:
            space = space.with_base({field: points.base_value(base, field) for field in space.condition_fields()})
            found = check.space(base, space) or (config.searcher.check(space) if config is not None else [])
        wrong += found
    wrong += check.local_files(raw, config)
    if wrong or config is None or space is None:
        raise ConfigError(wrong)
    resolved = config.model_copy(
        update={"search_space": space.to_raw(), "storage": str((folder / config.storage).resolve())}
    )
    return Sweep(_with_tracking_uri(resolved, folder), space)


def _find(file: str, folder: Path) -> Path:
    path = folder / file
    if path.is_file():
        return path.resolve()
    recipe = RECIPES / f"{file}.yaml"
    if "/" not in file and recipe.is_file():
        return recipe
    near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    hint = problems.did_you_mean(file, [*recipes(), *near])
    raise ConfigError(
        [f"{file}: no such file ({path}), and no recipe of that name{hint} (recipes: {', '.join(recipes())})"]
    )


def _validate(raw: Mapping[str, Any]) -> tuple[SweepConfig | None, list[str]]:
    try:
        return SweepConfig.model_validate(raw), []
    except ValidationError as error:
        return None, problems.of_validation(error, raw)


def _space(raw: object) -> tuple[SearchSpace | None, list[str]]:
    try:
        if isinstance(raw, str):
            return search_spaces.load(raw), []
        if isinstance(raw, Mapping):
            return SearchSpace.parse(raw), []
    except SpaceError as error:
        return None, [line if line.startswith("search_space") else f"search_space.{line}" for line in error.problems]
    return None, []


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths in `raw` absolute: relative ones are relative to `folder`."""
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(source := model.get("source"), str) and _is_path(source, folder):
        model["source"] = str((folder / Path(source).expanduser()).resolve())
    data = raw.get("data")
    if isinstance(data, dict):
        for field in ("train", "eval", "test"):
            value = data.get(field)
            if isinstance(value, str) and value and rows.is_local(value):
                data[field] = str((folder / Path(value).expanduser()).resolve())
    cluster = raw.get("cluster")
    if isinstance(cluster, dict) and isinstance(profile := cluster.get("profile"), str) and profile.endswith(".yaml"):
        cluster["profile"] = str((folder / profile).resolve())


def _is_path(source: str, folder: Path) -> bool:
    if source.startswith("package:"):
        return False
    return source.startswith((".", "/", "~")) or source.endswith(".gguf") or (folder / source).exists()


def _apply_profile(raw: dict[str, Any]) -> list[str]:
    """Puts the profile's fields under those that the file gives itself."""
    given = raw.get("cluster", {})
    if not isinstance(given, dict):
        return []
    name = given.get("profile", "local")
    if not isinstance(name, str):
        return []
    path = Path(name) if name.endswith(".yaml") else PROFILES / f"{name}.yaml"
    if not path.is_file():
        return [
            f"cluster.profile: {problems.unknown('profile', name, sorted(p.stem for p in PROFILES.glob('*.yaml')))}"
        ]
    try:
        raw["cluster"] = {**yaml_files.read(path), **given}
    except ConfigError as error:
        return list(error.problems)
    return []


def _with_tracking_uri(config: SweepConfig, folder: Path) -> SweepConfig:
    """sqlite:///FILE is relative to the current folder; made absolute, it means the same from everywhere."""
    uri = config.tracking.uri
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        uri = prefix + str((folder / uri.removeprefix(prefix)).resolve())
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
