"""Describes a refit: a sweep of one trial, with the settings of a trial of an earlier sweep. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from search_spaces.space import Point
from search_spaces.values import as_raw
from sweeps.config import components, load, resource
from sweeps.config.model import RefitOf, SweepConfig
from sweeps.errors import ConfigError
from trainables.specs import LARGEST_NUMBER, TrialSpec

_SECTIONS = ("model", "quantization", "adapter", "training")
_ENDING = "-refit"


def of_trial(
    config: SweepConfig, origin: RefitOf, spec: TrialSpec, point: Point, length: Mapping[str, float | None]
) -> dict[str, Any]:
    """Returns the sweep file of a refit: the trial's point alone, its report points, and a longer schedule.

    The point and the sweep's seed are the same, and so is the trial's seed. Limits of the first sweep are left out.

    Args:
        spec: the trial's.
        length: keys of `budget` with a value, or None. Without a value the trial is as many times longer as the next
            report point of the first sweep would be.
    """
    raw: dict[str, Any] = yaml.safe_load(load.written(config))
    own = {"kind": "fifo"} | {key: value for key, value in raw["scheduler"].items() if key != "kind"}
    compared, known = resource.of(config), components.keys("schedulers", "fifo")
    first = resource.in_steps((compared.scheduler.grace_steps,), compared.unit, spec.training)[0]
    given = {key: value for key, value in length.items() if value is not None}
    disk = {} if config.budget.disk is None else {"disk": config.budget.disk}
    cluster = {key: value for key, value in raw.get("cluster", {}).items() if key != "slots_per_host"}
    where = {field: as_raw(value) for field, value in point.items()}
    return {
        **raw,
        **{name: part for name, part in spec.model_dump(mode="json", include={*_SECTIONS}).items() if part},
        "name": f"{config.name.removesuffix(_ENDING)[: 100 - len(_ENDING)]}{_ENDING}",
        "search_space": {field: {"choice": [value]} for field, value in where.items()},
        "searcher": {"kind": "random", "start_with_default": False, "points": [where]},
        "scheduler": {key: value for key, value in own.items() if key in known} | {"grace_steps": first},
        "budget": {"trials": 1} | disk | (given or {"steps_per_trial": spec.steps * config.scheduler.reduction_factor}),
        "cluster": cluster | {"hosts": 1},
        "tracking": raw.get("tracking", {}) | {"experiment": config.experiment},
        "refit_of": origin.model_dump(),
    }


def on_all_rows(raw: Mapping[str, Any], has_test_rows: bool) -> dict[str, Any]:
    """Returns the refit on the rows held out too, evaluated at its end alone, on the test rows.

    Raises:
        ConfigError: there are no test rows.
    """
    if not has_test_rows:
        rule = "the rows held out are trained on, and there is no data.test to evaluate on"
        raise ConfigError([f"--all-rows: {rule}: leave --all-rows out, or launch a sweep that has data.test"])
    return {
        **raw,
        "data": raw["data"] | {"all_rows": True},
        "scheduler": raw["scheduler"] | {"grace_steps": LARGEST_NUMBER, "overfit_patience": None},
    }
