"""`qsweep launch FILE`."""

from __future__ import annotations

from sweeps.cli.shared import Changes, File, Json, Offline, Promoting, load_sweep, mistakes, say, show_plan
from sweeps.cli.sweep_end import check_promotion, finish


def launch(
    file: File,
    changes: Changes = None,
    promote: Promoting = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a sweep."""
    import time

    started = time.time()
    with mistakes():  # Also of the environment variables that modules read when they are imported.
        from sweeps import launch as launching
        from sweeps.planning import this_machine
        from sweeps.record.events import SweepPlanned
        from sweeps.report import summary

        sweep = load_sweep(file, changes)
        if promote:
            check_promotion(sweep.config)
        if not offline:
            _look_for_tracking(sweep.config.tracking.uri)
        for line in this_machine.look_up(sweep):
            say(f"warning: {line}")
        sweep, how = this_machine.with_trials(sweep, to_launch=True)
        if how is not None:
            say(how)
        planned = this_machine.plan_here(sweep, to_launch=True)
        show_plan(planned)
    with mistakes("no trial was started"):
        displays = summary.displays(started, planned.trials)
        seen = planned.forecast
        seconds = seen.seconds.expected if seen.seconds is not None and seen.is_measured else None
        expected = SweepPlanned(
            time=time.time(),
            steps=planned.expected_steps,
            seconds=seconds,
            memory_bytes=planned.memory_bytes,
        )
        result = launching.launch(sweep, displays, planned=expected)
    finish(sweep, result, promote, as_json)


def _look_for_tracking(uri: str) -> None:
    """Raises ConfigError where nothing answers at a tracking URI: one that is mistyped would be told at the end."""
    from cluster.doctor import stores
    from sweeps.errors import ConfigError

    wrong = stores.nothing_answers(uri)
    if wrong is not None:
        way_out = "or launch with --offline: MLflow gets all events once it answers, or by qsweep resume"
        raise ConfigError([f"tracking.uri: {wrong.seen}: {wrong.mend}, {way_out}"])
