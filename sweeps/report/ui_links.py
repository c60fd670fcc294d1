"""The addresses of pages in MLflow's UI (those of mlflow 3.17.2, read in the UI itself). Pure."""

from __future__ import annotations

from urllib.parse import quote, urlencode

_FOR_TRAINING = {"workflowType": "machine_learning"}
"""Without it MLflow opens a page about calls of language models, which is empty here."""


def experiments(server: str) -> str:
    """The list of all experiments on a server."""
    return f"{_base(server)}/#/experiments?{urlencode(_FOR_TRAINING)}"


def saved_view(server: str, experiment_id: str, key: str) -> str:
    """The runs of an experiment as the saved view of a key shows them."""
    return _runs(server, experiment_id, {"viewStateShareKey": key})


def runs_below(server: str, experiment_id: str, parent_run: str) -> str:
    """The runs below a parent run, the lowest eval_loss first."""
    # MLflow does not apply a filter in a link that has no order.
    order = {"orderByKey": "metrics.`best_eval_loss`", "orderByAsc": "true"}
    return _runs(server, experiment_id, {"searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run}'", **order})


def _runs(server: str, experiment_id: str, query: dict[str, str]) -> str:
    return (
        f"{_base(server)}/#/experiments/{experiment_id}/runs?{urlencode({**_FOR_TRAINING, **query}, quote_via=quote)}"
    )


def _base(server: str) -> str:
    """The server's address without a name and a password: the browser asks for them."""
    scheme, _, rest = server.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
