"""A driver is killed while a searcher learns: `resume` draws the points that the sweep would have drawn without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chaos_runs as runs
import pytest

from sweeps.record.events import TrialStarted

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
TRIALS = 14
"""TPE draws at random until 10 trials are known: the last ones come from what it learned."""
SPACE = (
    "{adapter.r: {choice: [4, 8, 16, 32], prior: 16}, "
    "training.learning_rate: {loguniform: [1.0e-5, 1.0e-2], prior: 1.0e-3}}"
)
HELD = f'''
"""The toy, whose trials take no step once {TRIALS - 2} of them have begun, for as long as somebody holds them."""
from pathlib import Path
from threading import Event
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

HOLD = Path(__file__).with_name("hold")

class Pack(toy.ToyPack):
    def __init__(self):
        super().__init__()
        self.begun = set()

    def open(self, slot, spec, snapshot=None):
        self.begun.add(spec.seed)
        return super().open(slot, spec, snapshot)

    def step(self, slots):
        while len(self.begun) >= {TRIALS - 2} and HOLD.exists():
            Event().wait(0.05)
        return super().step(slots)

def open_pack(base, data, cache):
    return Pack()
'''
WORDS = [
    *("launch", "toy", f"search_space={SPACE}", f"budget.trials={TRIALS}"),
    *("budget.steps_per_trial=9", "cluster.slots_per_host=1"),
]


def points(sweep: Path) -> list[dict[str, Any]]:
    """The point of each trial, in the order in which they began; a trial that goes on begins no more than once."""
    begun = {event.number: event.point or {} for event in runs.events(sweep) if isinstance(event, TrialStarted)}
    return list(begun.values())


@pytest.mark.parametrize("kind", ["tpe", pytest.param("prior", marks=pytest.mark.chaos_long)])
def test_a_searcher_that_learns_draws_the_same_points_after_a_kill(tmp_path, kind):
    words = [*WORDS, *runs.variant(tmp_path, "held", HELD), f"searcher.kind={kind}"]
    hold = tmp_path / "held" / "hold"
    calm = runs.start(tmp_path, *words, "name=calm")
    assert calm.wait() == 0, calm.err.read_text()
    hold.touch()
    # Slower steps are another setting of the trials, and no other point.
    run = runs.start(tmp_path, *words, "name=killed", "training.step_seconds=0.01")
    sweep = tmp_path / "results" / "killed"
    runs.wait_for(lambda: len(points(sweep)) >= TRIALS - 2, run)
    runs.kill(run.process.pid)
    hold.unlink()
    before = len(points(sweep))
    again = runs.start(tmp_path, "resume", str(sweep))
    assert again.wait() == 0, again.err.read_text()
    found = points(sweep)
    assert before < len(found) == TRIALS
    assert found == points(tmp_path / "results" / "calm")
    runs.assert_every_step_once(sweep)
