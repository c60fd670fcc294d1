"""A package's metadata are read once a process."""

from __future__ import annotations

import importlib.metadata

import pytest

from trainables.inputs.installed import version


def test_a_version_is_that_of_the_package_and_its_metadata_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = version("pydantic")
    assert told == importlib.metadata.version("pydantic")
    monkeypatch.setattr("sys.path", [])  # no metadata are found from here on
    assert version("pydantic") == told
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("no-such-package")
