"""The page of a sweep on a server that does not tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from sweeps.errors import Failed, SweepError
from sweeps.record.folder import SweepFolder
from sweeps.tracking import stores, ui_view
from sweeps.tracking.stores import Place

SERVER = "http://mlflow:5000"


def asked(monkeypatch: pytest.MonkeyPatch, folder: Path | None, status: int) -> str:
    """The page, where the server answers with this status."""

    def refuses(*_arguments: object) -> None:
        response = requests.Response()
        response.status_code = status
        raise requests.HTTPError(f"{status}", response=response)

    monkeypatch.setattr(stores, "run_on_server", refuses)
    return ui_view.address(SERVER, Place(SERVER, "x-1", folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SweepFolder(tmp_path).tracking.write_text(json.dumps({"uri": SERVER, "experiment_id": "7"}))
    return tmp_path


def test_a_server_that_asks_for_a_password_shows_the_view_that_the_folder_notes(monkeypatch, folder) -> None:
    assert "/#/experiments/7/runs?" in asked(monkeypatch, folder, 401)
    with pytest.raises(SweepError, match="name the sweep's folder"):
        asked(monkeypatch, None, 403)


def test_the_experiment_of_another_store_is_not_taken_for_one_of_this(monkeypatch, folder) -> None:
    SweepFolder(folder).tracking.write_text(json.dumps({"uri": "sqlite:////a/x.db", "experiment_id": "7"}))
    with pytest.raises(SweepError, match="name the sweep's folder"):
        asked(monkeypatch, folder, 401)


def test_a_server_that_fails_is_no_mistake_of_the_users(monkeypatch, folder) -> None:
    with pytest.raises(Failed, match="does not tell where the sweep x-1 is: 503"):
        asked(monkeypatch, folder, 503)
