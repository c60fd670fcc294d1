"""The end of `launch` and `resume`: the summary, the promotion, the JSON line, the exit code."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import typer

from sweeps.cli.promote import ALIAS_IS_WHOLE, request_of, show_promotion
from sweeps.cli.shared import mistakes, say
from sweeps.errors import ConfigError
from sweeps.report import streams

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep
    from sweeps.config.model import SweepConfig
    from sweeps.report.result import Result


def check_promotion(config: SweepConfig) -> None:
    """Raises ConfigError or HostError if the sweep cannot be promoted at its end, whatever its result."""
    from cluster.scoring.host import can_score
    from sweeps.config import checks

    if config.promotion.model is None:
        raise ConfigError(["promotion.model: --promote needs it: the name of the registered model"])
    if wrong := checks.alias("promotion.alias", config.promotion.alias):
        raise ConfigError(wrong)
    if config.promotion.metric is None and len(config.objectives) > 1:
        names = " and ".join(objective.metric for objective in config.objectives)
        way_out = "name the metric that ranks the trials, or leave --promote out: qsweep promote SWEEP --trial KEY"
        raise ConfigError([f"promotion.metric: the sweep has several objectives ({names}), and --promote: {way_out}"])
    can_score(config.trainable)


def finish(sweep: LoadedSweep, result: Result, promote: bool, as_json: bool) -> None:
    """Prints how the sweep ended, promotes its best adapter if `promote`, and ends the command."""
    from sweeps.report import summary

    summary.show(sweep, result, as_json)
    code, document = result.exit_code, result.as_json()
    if promote and code == 0:
        code, promotion = _promote(sweep, result, as_json)
        document |= promotion
    elif promote:
        say(f"not promoted: the sweep did not end well (exit code {code})")
        document |= {"promotion": None, "not_promoted": "sweep"}
    if as_json:
        print(json.dumps(document), flush=True)
    if result.is_ray_left_behind or (result.mirror is not None and result.mirror.is_busy):
        from cluster.ray_files import remove_all

        remove_all()
        streams.end_at_once(code)
    raise typer.Exit(code)


def _promote(sweep: LoadedSweep, result: Result, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Promotes a sweep that has just ended; returns the exit code, and entries for the JSON line.

    The exit code is never 2, which says that no trial was started.
    """
    from sweeps.steering.stop import Interrupted, raising_on_signals

    say()
    try:
        with mistakes(""), raising_on_signals():
            request = request_of(str(result.folder), {}, tracking_uri=sweep.config.tracking.uri)
            outcome = show_promotion(request, as_json)
    except Interrupted as interrupted:
        say(f"interrupted: {ALIAS_IS_WHOLE}; qsweep promote {shlex.quote(str(result.folder))} does what is left")
        return interrupted.exit_code, {"promotion": None, "not_promoted": "interrupted"}
    except typer.Exit:
        return 1, {"promotion": None, "not_promoted": "failed"}
    return outcome.exit_code, {"promotion": outcome.as_json()}
