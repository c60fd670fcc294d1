"""The bases of a sweep that goes on."""

from __future__ import annotations

from sweeps.config import bases
from sweeps.record.events import PathSettled, from_line, to_line
from sweeps.record.sweep_record import SweepRecord
from trainables.engine_paths import EnginePath
from trainables.quantization import SchemeName
from trainables.specs import QuantizationSpec, TrialSpec


def base(scheme: SchemeName) -> TrialSpec:
    return TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme=scheme))


def test_the_path_of_a_first_base_that_is_not_quantised_does_not_dequantise_the_others_on_resume() -> None:
    plain, nf4 = base("none"), base("nf4")
    first, other = bases.as_begun((plain, nf4), EnginePath(engine="flat", residency="dequantised"), {})
    assert (first.training.engine, first.quantization.residency) == ("flat", "dequantised")
    assert other == nf4
    assert bases.as_begun((plain, nf4), None, {}) == (plain, nf4)


def test_each_base_goes_on_with_the_path_that_its_own_first_host_settled() -> None:
    plain, nf4 = base("none"), base("nf4")
    paths = {nf4.base_name: EnginePath(engine="peft", residency="4bit")}
    events = [PathSettled(time=1.0, base=name, path=path) for name, path in paths.items()]
    events.append(PathSettled(time=2.0, base=nf4.base_name, path=EnginePath(engine="flat", residency="4bit")))
    record = SweepRecord()
    for event in events:
        record = record.apply(from_line(to_line(event)))
    assert record.paths == paths, "the first one stays"
    first, other = bases.as_begun((plain, nf4), record.path, record.paths)
    assert first == plain
    assert (other.training.engine, other.quantization.residency) == ("peft", "4bit")
