"""The addresses of pages in MLflow's UI, as seen in the UI of mlflow 3.17.2. Pure."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit

_FOR_TRAINING = {"workflowType": "machine_learning"}
"""Without this query MLflow opens a page about calls of language models, which is empty here."""


def experiments(server: str) -> str:
    """Returns the address of the list of all experiments on a server."""
    return f"{_base(server)}/#/experiments?{urlencode(_FOR_TRAINING)}"


def saved_view(server: str, experiment_id: str, key: str) -> str:
    """Returns the address of an experiment's runs in the saved view of a key."""
    query = urlencode({**_FOR_TRAINING, "viewStateShareKey": key}, quote_via=quote)
    return f"{_base(server)}/#/experiments/{experiment_id}/runs?{query}"


def _base(server: str) -> str:
    """Returns the server's address without name and password: the browser asks for them."""
    found = urlsplit(server.rstrip("/"))
    return found._replace(netloc=found.netloc.rpartition("@")[2]).geturl()
