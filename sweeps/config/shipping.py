"""Packs the sweep file and the files that it names, for a sweep submitted to a cluster from another machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweeps.config import load, yaml_files
from sweeps.config.model import SweepConfig, Tracking
from sweeps.config.uris import is_object_store, local_storage
from sweeps.errors import ConfigError
from trainables.inputs import own_code, paths

MOST_BYTES = 50_000_000
"""Maximum size of all files of a shipment. Ray's dashboard takes 100 MiB a request, including code
(ray/_private/ray_constants.py, 2.60: DASHBOARD_CLIENT_MAX_SIZE), and keeps it in the memory of the head node."""
_PLACES = (("model", "source"), ("data", "train"), ("data", "eval"), ("data", "test"), ("cluster", "profile"))
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@dataclass(frozen=True)
class Shipment:
    """A sweep file for the cluster, and the files that travel beside it."""

    document: dict[str, Any]
    """Content of the sweep file with its overrides; files that travel are named by their paths beside it."""
    given_storage: str
    """`storage` as the file or its profile gives it; the head node resolves relative paths and ~."""
    given_uri: str
    """`tracking.uri`, likewise."""
    files: dict[str, Path] = field(default_factory=dict)
    """Path beside the sweep file -> file or folder on this machine."""
    there: tuple[str, ...] = ()
    """Fields that name paths of the cluster."""

    def text(self) -> str:
        """Returns the sweep file as JSON, which is also YAML and quotes texts that YAML would take for numbers."""
        return json.dumps(self.document, indent=1, ensure_ascii=False)


def pack(raw: Mapping[str, Any], folders: tuple[Path, ...], ships_files: bool = True) -> Shipment:
    """Packs a sweep file.

    A path that does not exist on this machine is a path of the cluster, unless it lies in one of `folders`.

    Args:
        raw: the file with its overrides and absolute paths.
        folders: the home folder and the current folder, where a missing path is a mistake.
        ships_files: whether data and model travel; if not, their paths are those of the cluster.

    Raises:
        ConfigError: the files are too large to travel; a line for each.
    """
    document = json.loads(json.dumps(_with_text_keys(raw), default=str))
    given_storage, given_uri = _given_places(document)
    files: dict[str, Path] = {}
    there = []
    for section, key in _PLACES:
        place = _local(raw, section, key)
        if place is None:
            continue
        if section != "cluster" and (not ships_files or _is_there(place, folders)):
            there.append(f"{section}.{key}")
        elif paths.is_file(place) or paths.is_folder(place):
            name = next((name for name, known in files.items() if known == place), key + place.suffix)
            files[name] = place
            document[section][key] = f"./{name}"
    given = yaml_files.section(document, "evaluation").get("metrics")
    metrics: list[Any] = given if isinstance(given, list) else []
    for number, entry in enumerate(metrics):
        code, _, function = str(entry).rpartition(":")
        if code.endswith(".py") and paths.is_file(Path(code)):
            files[f"metric-{number}.py"] = Path(code)
            metrics[number] = f"./metric-{number}.py:{function}"
    own, kind = own_code.parts(str(raw.get("trainable")))
    if own.endswith(".py") and paths.is_file(Path(own)):
        name = Path(own).name  # stays the same, because it is part of a trial's key
        files[name] = Path(own)
        document["trainable"] = f"./{name}:{kind}" if kind else f"./{name}"
    model = yaml_files.section(document, "model")
    facts = yaml_files.section(model, "facts")
    if facts.get("of") == yaml_files.section(raw, "model").get("source"):
        facts["of"] = model.get("source")
    wrong = _lists(raw, ships_files) + _too_large(files, document)
    if wrong:
        raise ConfigError(wrong)
    return Shipment(document, given_storage, given_uri, files, tuple(there))


def refusals(config: SweepConfig) -> list[str]:
    """Returns a line for each setting that forbids submitting the sweep."""
    wrong = []
    if config.cluster.address in (None, "local"):
        wrong.append(
            f"cluster.profile: {config.cluster.profile} starts a Ray of the sweep's own, and a submitted sweep runs in "
            "the cluster that it is submitted to: write cluster.profile=attached, or leave it out"
        )
    return wrong


def notices(shipment: Shipment, config: SweepConfig) -> Iterator[str]:
    """Yields lines on paths and addresses that are those of the cluster."""
    for place in shipment.there:
        section, _, key = place.partition(".")
        yield f"{place}: {shipment.document[section][key]} is taken for a path of the cluster's nodes"
    host = urlsplit(config.tracking.uri).hostname if config.tracking.uri.startswith("http") else None
    if host in _LOOPBACK:
        yield f"tracking.uri: {config.tracking.uri} means the head node itself there, not this machine"


def places(shipment: Shipment) -> tuple[str, str]:
    """Formats the places of the sweep's folder and its MLflow; ~ is the home folder on the head node."""
    name, uri, address = shipment.document["name"], shipment.given_uri, mirror(shipment)
    file = uri.removeprefix("sqlite:///")
    mirrored = "" if address is None else f", mirrored in {address}"
    folder = f"{_from_home(storage(shipment))}/{name}{mirrored}"
    return folder, f"sqlite:///{_from_home(file)}" if file != uri else uri


def mirror(shipment: Shipment) -> str | None:
    """Returns the address of the sweep's mirror, if no other sweep of its name is there; None without a mirror."""
    given = shipment.given_storage
    return f"{given}/{shipment.document['name']}" if is_object_store(given) else None


def storage(shipment: Shipment) -> str:
    """Returns the folder for sweeps on the head node, as the file or its profile gives it; relative to the home."""
    return local_storage(shipment.given_storage)


def _given_places(raw: Mapping[str, Any]) -> tuple[str, str]:
    """Returns `storage` and `tracking.uri` of a file with its profile; the check of the sweep reports mistakes."""
    both = deepcopy(dict(raw))
    load.apply_profile(both)
    uri = yaml_files.section(both, "tracking").get("uri")
    given = str(both.get("storage") or SweepConfig.model_fields["storage"].default)
    return given.rstrip("/") or "/", str(uri or Tracking.model_fields["uri"].default)


def _with_text_keys(value: Any) -> Any:
    """Turns keys into text, for JSON. YAML allows other keys, which the check of the sweep refuses."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(each) for each in value] if isinstance(value, list) else value


def _from_home(path: str) -> str:
    return path if path.startswith(("/", "~")) or "://" in path else f"~/{path.removeprefix('./')}"


def _local(raw: Mapping[str, Any], section: str, key: str) -> Path | None:
    value = yaml_files.section(raw, section).get(key)
    # All paths are absolute here; anything else is a hub id, a package, or the name of a profile.
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def _is_there(place: Path, folders: tuple[Path, ...]) -> bool:
    if paths.is_file(place) or paths.is_folder(place):
        return False
    return not any(place.is_relative_to(folder) for folder in folders)


def _lists(raw: Mapping[str, Any], ships_files: bool) -> list[str]:
    is_list = ships_files and isinstance(yaml_files.section(raw, "data").get("train"), list)
    return ["data.train: a list of files does not travel with a sweep: name a folder that holds them"] * is_list


def _too_large(files: Mapping[str, Path], document: Mapping[str, Any]) -> list[str]:
    """Returns a line for each of the largest files, until the rest fits."""
    sizes = {name: size(path) for name, path in files.items()}
    wrong = []
    rest = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if rest <= MOST_BYTES:
            break
        rest -= sizes[name]
        fields = [
            f"{section}.{key}"
            for section, key in _PLACES
            if yaml_files.section(document, section).get(key) == f"./{name}"
        ]
        hub = "the id of a model" if fields[0].startswith("model") else "the id of a data set"
        wrong.append(
            f"{fields[0]}: {files[name]} has {sizes[name] / 1e6:,.0f} MB, and at most {MOST_BYTES / 1e6:.0f} MB in all "
            f"travel with a sweep: give {hub} on the hub, or put it at one path of every node and write "
            f"{fields[0]}=THAT_PATH (with --no-files if that path exists here too)"
        )
    return wrong


def size(path: Path) -> int:
    """Returns the bytes of a file, or of all files of a folder."""
    if paths.is_file(path):
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
