"""The bases of a sweep that goes on."""

from __future__ import annotations

from sweeps.config import bases
from trainables.engine_paths import EnginePath
from trainables.quantization import SchemeName
from trainables.specs import QuantizationSpec, TrialSpec


def base(scheme: SchemeName) -> TrialSpec:
    return TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme=scheme))


def test_the_path_of_a_first_base_that_is_not_quantised_does_not_dequantise_the_others_on_resume() -> None:
    plain, nf4 = base("none"), base("nf4")
    first, other = bases.as_begun((plain, nf4), EnginePath(engine="flat", residency="dequantised"))
    assert (first.training.engine, first.quantization.residency) == ("flat", "dequantised")
    assert other == nf4
    assert bases.as_begun((plain, nf4), None) == (plain, nf4)
