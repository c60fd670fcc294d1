"""What the end of a sweep over several bases says of each of them."""

from __future__ import annotations

from sweep_events import base, begun, ended, record, reported, started
from sweep_files import toy

from sweeps.config import bases
from sweeps.record.events import Event, TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import bases_compared, best_compared, trial_tables
from trainables.specs import QuantizationSpec, SchemeName, TrialSpec

SPACE = {"quantization.scheme": {"choice": ["nf4", "fp4", "none"]}}


def trial(number: int, scheme: SchemeName, loss: float, memory: int) -> list[Event]:
    key = f"trial{number}"
    spec = TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme=scheme))
    begins = started(key, number, quantization=scheme).model_copy(update={"spec": spec.model_dump_json()})
    return [
        begins,
        reported(key, 9, loss).model_copy(update={"peak_memory_bytes": memory}),
        ended(key, TrialState.COMPLETED),
    ]


def sweep() -> SweepRecord:
    config, _ = toy(SPACE)
    evaluated = [base(loss).model_copy(update={"base": name}) for name, loss in (("nf4", 4.5), ("none", 4.25))]
    first, second = trial(0, "nf4", 1.25, 2_000_000_000), trial(1, "none", 1.0, 3_000_000_000)
    return record([begun(config=config.model_dump_json()), *evaluated, *first, *second, *trial(2, "nf4", 1.5, 1)])


def test_each_base_is_told_with_its_best_trial_and_what_it_takes() -> None:
    found = sweep()
    told = best_compared.best_lines(found, choose(found), None)
    assert told[0] == "best so far: t01, eval_loss 1.0000 at step 9"
    assert told[1] == "t01 is better than the base none without an adapter (4.2500): eval_loss 3.2500 lower"
    assert told[-3:] == [
        "none: t01 is the best of all; 0.5 s a step, 3.0 GB a host",
        "nf4: t01 (step 9) is better than t00 (step 9): eval_loss 0.2500 lower; 0.5 s a step, "
        "2.0 GB a host (0.67 times)",
        "fp4: no trial was on it",
    ]


def test_programs_get_the_same() -> None:
    config, space = toy(SPACE)
    found = bases_compared.as_json(bases_compared.found(sweep(), bases.of(config, space)))
    assert [(each["name"], each["best"], each["trials"]) for each in found] == [
        ("none", "trial1", 1),
        ("nf4", "trial0", 2),
        ("fp4", None, 0),
    ]
    assert [each["step_seconds"] for each in found] == [0.5, 0.5, None]


def test_the_table_has_a_row_for_each_base() -> None:
    found = sweep()
    rows = trial_tables.cells(found, trial_tables.order(found)).rows
    assert [row[0] for row in rows] == ["t01", "t00", "t02", "base nf4", "base none"]
    assert found.base_of(found.trials["trial2"]) == found.bases["nf4"]
