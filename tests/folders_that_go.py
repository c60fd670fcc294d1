"""Folders that another process deletes in the instant in which they are looked at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def goes_before_it_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes a folder just before anybody lists one."""

    def after_it_went(look: Callable[..., Any]) -> Callable[..., Any]:
        def lose_and_look(*words: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", scandir)
                patch.setattr(os, "listdir", listdir)
                shutil.rmtree(folder, ignore_errors=True)
            return look(*words)

        return lose_and_look

    scandir, listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, "scandir", after_it_went(scandir))
    monkeypatch.setattr(os, "listdir", after_it_went(listdir))
