"""The package that a job brings to the cluster: the code of this project, and the sweep with its files."""

from __future__ import annotations

import hashlib
import importlib.util
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster import PACKAGES
from cluster.errors import SubmissionFailed
from cluster.submission.on_node import SHIPPED, SWEEP_FILE
from trainables.inputs import own_code

SUFFIXES = (".py", ".yaml", ".jsonl", ".typed", ".j2")
"""Endings of the files that travel."""
MOST_MODULE_BYTES = 10_000_000
"""Largest size of the user's own trainable, with its top-level package."""
_NO_CODE = ("__pycache__", "node_modules", "results", "venv")
_MOMENT = (1980, 1, 1, 0, 0, 0)
"""Time of each file in the archive: equal files make equal archives, which are sent once."""


def code() -> dict[str, Path]:
    """Returns path in the package -> file here, for the product files of this project."""
    root = Path(__file__).parents[2]
    return dict(_product_files(root, PACKAGES))


def own_module(name: str) -> dict[str, Path]:
    """Returns the same as `code` for the user's own trainable; nothing if its module is installed or is a file.

    Raises:
        SubmissionFailed: its package is too large to be sent.
    """
    module, _ = own_code.parts(name)
    top = module.partition(".")[0]
    is_sent = name != top and top not in PACKAGES and not module.endswith(".py")
    spec = importlib.util.find_spec(top) if is_sent else None
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    if spec is not None and not places and spec.origin is not None:
        places = [Path(spec.origin)]
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    places = [place for place in places if not any(place.is_relative_to(folder) for folder in installed)]
    found = {name: path for place in places for name, path in _product_files(place.parent, (place.name,))}
    size = sum(path.stat().st_size for path in found.values())
    if size > MOST_MODULE_BYTES:
        raise SubmissionFailed(
            f"trainable: {name}: its package {places[0]} holds {size / 1e6:,.0f} MB of {', '.join(SUFFIXES)} files, "
            f"and at most {MOST_MODULE_BYTES / 1e6:.0f} MB of a trainable travel: move it to a folder of its own"
        )
    return found


def sweep_files(text: str, files: Mapping[str, Path]) -> tuple[str, dict[str, bytes | Path]]:
    """Returns the hash of a sweep and its files, and path in the package -> content or file here.

    `text` is the sweep file; `files` has path beside the sweep file -> file or folder here.
    """
    contents: dict[str, bytes | Path] = {SWEEP_FILE: text.encode()}
    for name, path in files.items():
        if path.is_dir():
            inner = sorted(each for each in path.rglob("*") if each.is_file())
            contents |= {f"{name}/{each.relative_to(path).as_posix()}": each for each in inner}
        else:
            contents[name] = path
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{len(name)}:{name}:".encode())
        digest.update(hashlib.sha256(_bytes(content)).digest())
    identity = digest.hexdigest()[:16]
    return identity, {f"{SHIPPED}/{identity}/{name}": content for name, content in contents.items()}


def write(archive: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Writes the archive that Ray unpacks on each node; equal contents make equal bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            target.writestr(entry, _bytes(content))


def _bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _product_files(root: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for name in names:
        for path in [root / name] if (root / name).is_file() else sorted((root / name).rglob("*")):
            inside = path.relative_to(root)
            is_hidden = any(part in _NO_CODE or part.startswith(".") for part in inside.parts)
            if path.suffix in SUFFIXES and not is_hidden and path.is_file():
                yield inside.as_posix(), path
