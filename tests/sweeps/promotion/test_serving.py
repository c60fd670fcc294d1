"""What a server is told to serve, from its numbers and the records."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.promotion.serving import nearest

ROWS, TOKENS = 32, 12


@pytest.fixture
def models():
    """Log-probabilities of a base, of what was promoted over it, and of an older version between them."""
    draws = np.random.default_rng(7)
    base = -draws.gamma(2.0, 1.0, (ROWS, TOKENS))
    older, promoted = (base + draws.gamma(2.0, gain, base.shape) for gain in (0.1, 0.3))
    return {"promoted": promoted, "base": base, "1": older}


def noisy(values, size):
    """What a server computes in another type, or on a base of another quantisation."""
    return values + np.random.default_rng(8).normal(0, size, values.shape)


@pytest.mark.parametrize("name", ["promoted", "base", "1"])
@pytest.mark.parametrize("noise", [0, 1e-6, 0.03])
def test_the_model_that_is_served_is_found(models, name, noise):
    found = nearest(noisy(models[name], noise), models, 0.04)
    assert found.served == name
    assert next(iter(found.differences)) == name
    assert found.differences[name] == pytest.approx(noise * np.sqrt(2 / np.pi), rel=0.1, abs=1e-12)


def test_what_is_near_none_is_not_told(models):
    found = nearest(models["promoted"] - 2.0, models, 0.04)
    assert found.served is None
    assert found.unclear == "the nearest is more than 0.04 nats a token away"


@pytest.mark.parametrize("share", [0.25, 0.4, 0.5, 0.75])
def test_an_adapter_that_is_applied_in_part_is_neither(models, share):
    """As by a server that divides by r where training divided by its root; however little the adapter changes."""
    part = models["base"] + share * (models["promoted"] - models["base"])
    two = {name: models[name] for name in ("promoted", "base")}
    found = nearest(part, two, 9.0)
    assert found.served is None
    assert "another is not clearly farther than the nearest" in found.unclear


@pytest.mark.parametrize(("share", "served"), [(0.2, "promoted"), (0.4, None)])
def test_another_adapter_must_be_twice_as_far(models, share, served):
    """`rival` is the next trial, and the server is so far on the way to it."""
    rival = noisy(models["promoted"], 0.1)
    between = models["promoted"] + share * (rival - models["promoted"])
    found = nearest(between, {"promoted": models["promoted"], "base": models["base"], "t00": rival}, 0.2)
    assert found.served == served


def test_models_that_are_alike_are_not_told_apart(models):
    twins = {"promoted": models["promoted"], "1": noisy(models["promoted"], 1e-3)}
    assert nearest(noisy(models["promoted"], 0.03), twins, 0.04).served is None
    assert nearest(models["promoted"], twins, 0.04).served == "promoted"


def test_a_few_rows_that_tell_are_not_enough():
    """Two of 32 rows carry the whole difference: with other rows it may be gone."""
    promoted = np.zeros((ROWS, TOKENS))
    base = promoted.copy()
    base[:2] -= 5.0
    assert nearest(noisy(promoted, 0.02), {"promoted": promoted.tolist(), "base": base.tolist()}, 0.04).served is None


def test_numbers_that_are_none_tell_nothing(models):
    assert nearest(models["base"] * np.nan, models, 0.04).served is None
