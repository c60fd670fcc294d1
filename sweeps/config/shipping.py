"""What travels with a sweep that is submitted to a cluster from another machine: its file, and the files it names."""

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
from sweeps.config.passwords import without_password
from sweeps.config.uris import is_object_store, local_storage
from sweeps.errors import ConfigError
from trainables.inputs import own_code, paths

MOST_BYTES = 50_000_000
"""Size of all files together that travel with a sweep: Ray's dashboard takes 100 MiB a request, code included
(ray/_private/ray_constants.py, 2.60: DASHBOARD_CLIENT_MAX_SIZE), and keeps it in the memory of the head node."""
_PLACES = (("model", "source"), ("data", "train"), ("data", "eval"), ("data", "test"), ("cluster", "profile"))
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@dataclass(frozen=True)
class Shipment:
    """A sweep file as it is read on the cluster, with what travels beside it."""

    document: dict[str, Any]
    """The sweep file's content, overrides included; what travels is named by its path beside that file."""
    given_storage: str
    """`storage` of the file or its profile, as it is written there: its relative paths and ~ are the head node's."""
    given_uri: str
    """`tracking.uri`, likewise."""
    files: dict[str, Path] = field(default_factory=dict)
    """Path beside the sweep file -> the file or folder here."""
    there: tuple[str, ...] = ()
    """The fields that name paths of the cluster."""

    def text(self) -> str:
        """The sweep file: JSON, which is YAML too and quotes what YAML would take for a number."""
        return json.dumps(self.document, indent=1, ensure_ascii=False)


def pack(raw: Mapping[str, Any], folders: tuple[Path, ...], ships_files: bool = True) -> Shipment:
    """The shipment of a sweep file.

    A path that is not on this machine is one of the cluster, unless it lies in one of `folders`.

    Args:
        raw: what the file and its overrides say, with absolute paths.
        folders: where a path that does not exist is a mistake: the home folder and the current one.
        ships_files: False when no data and no model travel: their paths are then those of the cluster.

    Raises:
        ConfigError: the files are too large to travel; a line each.
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
        name = Path(own).name  # a trial's key has it
        files[name] = Path(own)
        document["trainable"] = f"./{name}:{kind}" if kind else f"./{name}"
    model = yaml_files.section(document, "model")
    facts = yaml_files.section(model, "facts")
    if facts.get("of") == yaml_files.section(raw, "model").get("source"):
        facts["of"] = model.get("source")
    wrong = _too_large(files, document)
    if wrong:
        raise ConfigError(wrong)
    return Shipment(document, given_storage, given_uri, files, tuple(there))


def refusals(config: SweepConfig) -> list[str]:
    """A line for each part of a sweep that cannot be submitted."""
    wrong = []
    if config.cluster.address in (None, "local"):
        wrong.append(
            f"cluster.profile: {config.cluster.profile} starts a Ray of the sweep's own, and a submitted sweep runs in "
            "the cluster that it is submitted to: write cluster.profile=attached, or leave it out"
        )
    if without_password(config.tracking.uri) != config.tracking.uri:
        wrong.append(
            "tracking.uri: holds a password, and whoever reaches the cluster could read it: leave it out, and let the "
            "head node have it (docs/cluster.md)"
        )
    return wrong


def notices(shipment: Shipment, config: SweepConfig) -> Iterator[str]:
    """What people should know of where things lie."""
    for place in shipment.there:
        section, _, key = place.partition(".")
        yield f"{place}: {shipment.document[section][key]} is taken for a path of the cluster's nodes"
    host = urlsplit(config.tracking.uri).hostname if config.tracking.uri.startswith("http") else None
    if host in _LOOPBACK:
        yield f"tracking.uri: {config.tracking.uri} means the head node itself there, not this machine"


def places(shipment: Shipment) -> tuple[str, str]:
    """Where the sweep's folder and its MLflow will be, for people; ~ is the home folder on the head node."""
    name, uri, address = shipment.document["name"], shipment.given_uri, mirror(shipment)
    file = uri.removeprefix("sqlite:///")
    mirrored = "" if address is None else f", mirrored in {address}"
    folder = f"{_from_home(storage(shipment))}/{name}{mirrored}"
    return folder, f"sqlite:///{_from_home(file)}" if file != uri else uri


def mirror(shipment: Shipment) -> str | None:
    """Where the sweep is mirrored, unless another sweep of its name is there; None without a mirror."""
    given = shipment.given_storage
    return f"{given}/{shipment.document['name']}" if is_object_store(given) else None


def storage(shipment: Shipment) -> str:
    """The folder of sweeps' folders on the head node, as the file or its profile gives it: relative to its home."""
    return local_storage(shipment.given_storage)


def _given_places(raw: Mapping[str, Any]) -> tuple[str, str]:
    """`storage` and `tracking.uri` of a file and its profile; a mistake in them is told when the sweep is checked."""
    both = deepcopy(dict(raw))
    load.apply_profile(both)
    uri = yaml_files.section(both, "tracking").get("uri")
    given = str(both.get("storage") or SweepConfig.model_fields["storage"].default)
    return given.rstrip("/") or "/", str(uri or Tracking.model_fields["uri"].default)


def _with_text_keys(value: Any) -> Any:
    """The same with text for keys, which JSON needs: YAML has others too, and the check of the sweep refuses them."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(each) for each in value] if isinstance(value, list) else value


def _from_home(path: str) -> str:
    return path if path.startswith(("/", "~")) or "://" in path else f"~/{path.removeprefix('./')}"


def _local(raw: Mapping[str, Any], section: str, key: str) -> Path | None:
    value = yaml_files.section(raw, section).get(key)
    # Paths were made absolute; anything else is a hub id, a package, or the name of a profile.
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def _is_there(place: Path, folders: tuple[Path, ...]) -> bool:
    if paths.is_file(place) or paths.is_folder(place):
        return False
    return not any(place.is_relative_to(folder) for folder in folders)


def _too_large(files: Mapping[str, Path], document: Mapping[str, Any]) -> list[str]:
    """A line for each of the largest files that keep the others from fitting."""
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
    """Bytes of a file, or of all files of a folder."""
    if paths.is_file(path):
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
