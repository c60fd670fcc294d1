"""Fetches the files of a promoted version from its run's artifacts, and verifies that nobody has changed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.errors import NotStored, SweepError
from sweeps.record import digests
from sweeps.tracking import model_package
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import IDENTITY, Version
from trainables.inputs import json_text

DIGEST = "package_sha256"
"""A complete version's tag that holds the digest of all files of its package."""


def where(model: str, identity: str) -> str:
    """The path of a version's package among the artifacts of its run."""
    return f"promoted/{model}/{identity}"


def fetch(lookup: Lookup, model: str, version: Version) -> dict[str, bytes]:
    """Fetches the files of a complete version's package, and verifies them.

    Raises:
        SweepError: they are gone, or are not the files that were promoted.
    """
    files = lookup.files(version.run_id, where(model, version.tags[IDENTITY]))
    if digests.of_files(files) != version.tags.get(DIGEST):
        raise SweepError(
            f"{model}: the files of version {version.number} are not those that were promoted: sha256 differs; go to "
            "another version with qsweep rollback --to, and delete this one in MLflow"
        )
    return files


def check_kept(lookup: Lookup, model: str, version: Version) -> None:
    """Raises `SweepError` when the files of a complete version are gone, or are not those that were promoted."""
    try:
        fetch(lookup, model, version)
    except NotStored as error:
        raise SweepError(
            f"{model}: the files of version {version.number} are gone ({error}): delete this version in MLflow and "
            "promote again"
        ) from None


def adapter(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package's PEFT folder."""
    return _below(f"{model_package.ADAPTER}/", files)


def tokenizer(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package's tokenizer, with its chat template."""
    return _below("artifacts/tokenizer/", files)


def _below(prefix: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name.removeprefix(prefix): content for name, content in files.items() if name.startswith(prefix)}


def base(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the package says of its base; see `model_package.base_json`."""
    facts: dict[str, Any] = json_text.parse(files["artifacts/base.json"])
    return facts


def row_form(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of `data` that say in what form of rows the package's adapter was trained."""
    form: dict[str, Any] = base(files)["form"]
    return {name: value for name, value in form.items() if name != "max_length"}
