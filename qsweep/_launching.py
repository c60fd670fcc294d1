"""Begins sweeps and finds them again. The checks run here; the driver is a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsweep import _driver, _given
from qsweep._sweep import Sweep, driven, run, say
from qsweep._words import with_keywords
from sweeps.errors import SweepError

if TYPE_CHECKING:
    from sweeps.planning.plan import Plan

Config = str | Path | Mapping[str, Any] | None


@with_keywords
def launch(config: Config = None, /, *, wait: bool = True, offline: bool = False, **keywords: Any) -> Sweep:
    """Runs a sweep in its own process; returns the sweep once it is over, or (`wait=False`) once its driver runs.

    Args:
        config: a sweep file, the name of a recipe, or a mapping in the form of the sweep file.
        wait: whether to follow the sweep until it ends. Ctrl-C then ends the waiting, and not the sweep.
        offline: whether to start although MLflow does not answer.
        keywords: keys of the sweep file, which override those of `config`: `training={"batch_size": 8}`; and short
            names: model, train, eval, test, prompt, completion, system, messages, text, space, metrics, trials, steps,
            scheduler, searcher, tracking (MLflow's URI).

    Raises:
        ConfigError: with a line for each mistake; nothing was started.
        Failed: the driver failed.
    """
    return run(_given.sweep_of(config, keywords), "qs.plan(...), called as qs.launch was", wait, offline)


@with_keywords
def resume(
    sweep: Sweep | str | Path,
    *,
    wait: bool = True,
    tracking_uri: str | None = None,
    resend: bool = False,
    storage: str | Path = "results",
) -> Sweep:
    """Goes on with a sweep that was interrupted or lost its driver; sends MLflow the events that it lacks.

    Args:
        sweep: the sweep, or a word for `load`.
        wait: as in `launch`.
        tracking_uri: the MLflow that gets everything from now on.
        resend: whether to send MLflow all events again.
        storage: as in `load`.

    Raises:
        ConfigError: the sweep cannot go on as it was launched.
        SweepError: there is no such sweep, it runs already, or `tracking_uri` names a missing database.
        Failed: the driver failed.
    """
    from sweeps import saved_sweep
    from sweeps.config.uris import sqlite_file
    from sweeps.record.folder import is_driven
    from sweeps.tracking import stores

    if tracking_uri is not None and sqlite_file(tracking_uri) is not None:  # a server may come back later
        stores.check_store(stores.absolute(tracking_uri), "name one that is there")
    found = load(sweep, storage)
    if is_driven(found._folder):
        raise SweepError(f'{found.id} runs already: qs.load("{found.folder}").wait() follows it')
    saved_sweep.load(found._folder, tracking_uri)
    place = ["--tracking-uri", tracking_uri] if tracking_uri else []
    words = [*place, *(["--resend"] if resend else [])]
    return driven(found._folder, words, wait)


@with_keywords
def load(sweep: Sweep | str | Path, storage: str | Path = "results") -> Sweep:
    """Finds the sweep of a folder, an id or a name (the newest of this name), whether it runs or not.

    Args:
        storage: the folder in which an id or a name is looked for.

    Raises:
        SweepError: there is no such sweep.
    """
    from sweeps.steering import local_sweeps

    if isinstance(sweep, Sweep):
        return sweep
    return Sweep(local_sweeps.find(str(sweep), Path(storage)))


@with_keywords
def plan(config: Config = None, /, *, price: float | None = None, **keywords: Any) -> Plan:
    """Prints what a sweep will do and cost, and returns the plan. Starts nothing. Other arguments as in `launch`.

    Args:
        price: cost of a GPU-hour.

    Raises:
        ConfigError: with a line for each mistake.
    """
    from sweeps.planning import this_machine
    from sweeps.report.plan_lines import plan_lines

    sweep, how = this_machine.with_trials(_given.sweep_of(config, keywords))
    planned = this_machine.plan_here(sweep).at(price)
    if how is not None:
        print(how)
    say(plan_lines(planned))
    if (shell := _driver.shell()) is not None:
        # A cell that ends with this call has shown the plan; a later cell that ends with the plan shows it again.
        cell, lines = shell.execution_count, plan_lines(planned)
        again = {"_ipython_display_": lambda: None if shell.execution_count == cell else say(lines)}
        vars(planned).update(again)
    return planned


@with_keywords
def validate(config: Config = None, /, **keywords: Any) -> list[str]:
    """Checks a sweep and its local files, and returns the warnings. Starts nothing. Arguments as in `launch`.

    Raises:
        ConfigError: with a line for each mistake.
    """
    from sweeps.planning.advice import never_early

    sweep = _given.sweep_of(config, keywords)
    return [*never_early(sweep.config), *sweep.notices, *sweep.preview.warnings]
