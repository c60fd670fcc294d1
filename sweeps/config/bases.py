"""The frozen bases of a sweep: one, or several where the search space holds fields of the base. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from search_spaces.domains import Value
from search_spaces.space import Point, SearchSpace
from sweeps.config import points
from trainables.engine_paths import EnginePath
from trainables.specs import TrialSpec

if TYPE_CHECKING:
    from sweeps.config.model import SweepConfig

FIELDS = ("quantization.scheme", "quantization.double_quant", "quantization.compute_dtype")
"""Fields of the base that may be searched."""


def are_searched(config: SweepConfig) -> bool:
    """Tells whether the search space, written out in the configuration, holds a field of the base."""
    return any(field in config.searched for field in FIELDS)


def of(config: SweepConfig, space: SearchSpace) -> tuple[TrialSpec, ...]:
    """Returns a spec on each base that trials may name, the one of the first trial first."""
    searched = [field for field in FIELDS if field in space.domains]
    if not searched:
        return (config.base,)
    choices: list[Sequence[Value | None]] = []
    for field in searched:
        domain = space.domains[field]
        choices.append((*(domain.values() or ()), *([None] if domain.when else [])))
    known: list[Point] = [{}] if config.searcher.start_with_default else []
    known += config.searcher.points
    for values in product(*choices):
        known.append({field: value for field, value in zip(searched, values, strict=True) if value is not None})
    found: dict[str, TrialSpec] = {}
    for point in known:
        own = {field: value for field, value in point.items() if field in searched}
        spec = config.base.on_base_of(points.apply(config.base, own, 0))
        found.setdefault(spec.base_name, spec)
    return tuple(found.values())


def as_begun(
    own: tuple[TrialSpec, ...], path: EnginePath | None, paths: Mapping[str, EnginePath]
) -> tuple[TrialSpec, ...]:
    """Returns the bases on the paths that the sweep began with; a base that is in no log settles its own.

    Another path rounds differently, and new losses must compare with those in the log. But a path says how the base is
    kept, too: the path of a base that is not quantised would dequantise the others.

    Args:
        path: that of the first base.
        paths: base -> its path.
    """
    known = {**({} if path is None else {own[0].base_name: path}), **paths}
    return tuple(known[spec.base_name].given_to(spec) if spec.base_name in known else spec for spec in own)
