"""Each scheme of quantisation answers for itself."""

from __future__ import annotations

from typing import get_args

import pytest
from transformers import BitsAndBytesConfig

from trainables.quantization import SCHEMES, SchemeName
from trainables.specs import QuantizationSpec


def test_every_scheme_of_the_sweep_file_has_its_answers():
    assert set(SCHEMES) == set(get_args(SchemeName))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_is_loaded_as_transformers_reads_its_options(name):
    scheme = SCHEMES[name]
    options = scheme.options(is_double=True, dtype="bfloat16")
    assert bool(options) == bool(scheme.packages) == scheme.is_quantised
    if options:
        read = BitsAndBytesConfig(**options)
        assert read.quantization_method() == name
        assert (read.bnb_4bit_use_double_quant, str(read.bnb_4bit_compute_dtype)) == (True, "torch.bfloat16")


def test_only_a_quantised_base_has_constants_to_quantise():
    assert QuantizationSpec(scheme="nf4").is_double
    assert not QuantizationSpec(scheme="nf4", double_quant=False).is_double
    assert not QuantizationSpec(scheme="none").is_double
