"""Begins with points and values that are known to be good, then learns more and more from the sweep's own trials.

First come the points of the space's portfolio (without one, the point of all its priors). Then each point is drawn from
one of four sources: the priors of the space, the neighbourhood of the best point so far, TPE, and the space at random.
The weight of the priors falls with the number of results (piBO, Hvarfner et al., arXiv 2204.11051, eq. 6). It also
falls if the neighbourhood of the best point explains the good results better than the priors do (PriorBand, Mallik et
al., arXiv 2306.12370, section 5). So a wrong prior costs a few trials, not the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from random import Random
from statistics import NormalDist
from typing import Literal

from search_spaces.domains import Domain, Value, identity
from search_spaces.space import Point, SearchSpace
from sweeps.searchers import SearcherSettings, _parzen
from sweeps.searchers._learner import History, Learner
from sweeps.searchers.tpe import STARTUP

PLAIN = 0.15
"""Share of points that are always drawn from the space at random."""
PATIENCE = 5.0
"""Number of results that halves the weight of the priors."""
PARZEN = 0.6
"""Share of TPE in the points that the sweep's own results suggest, once TPE has enough results."""
SPREAD = 0.25
"""Standard deviation around a prior and around the best point, as a share of the domain's length (PriorBand's)."""
FAVOUR = 4.0
"""Weight of the centre among words and flags; every other value has weight 1."""
MOST_DRAWS = 1000
MOVES = 0.5
"""Probability that a field of the best point changes (PriorBand's). One field always changes."""

Source = Literal["prior", "best", "parzen", "plain"]


class Config(SearcherSettings):
    """Suggests points that are known to be good, then points like the best ones."""

    kind: Literal["prior"] = "prior"

    def check(self, space: SearchSpace) -> list[str]:
        """Refuses a space without a prior and without a portfolio point."""
        if any(map(space.contains, space.portfolio)) or any(
            domain.prior is not None for domain in space.domains.values()
        ):
            return []
        return [
            "searcher.kind: prior begins with what the search space expects, and this one has no prior: add one to a "
            "field, such as {loguniform: [2.0e-5, 2.0e-3], prior: 3.0e-4}, or use searcher.kind=tpe"
        ]

    def build(self, space: SearchSpace, seed: int) -> Learner:
        """See `SearcherSettings.build`."""
        beginning = _beginning(space, Random(f"{seed}:beginning"))

        def propose(history: History, rng: Random, dropped: int) -> Iterator[Point]:
            first = [point for point in beginning if point not in history]
            return chain(first[dropped:], _draws_of(space, history, rng))

        return Learner(space, seed, propose)


def _draws_of(space: SearchSpace, history: History, rng: Random) -> Iterator[Point]:
    weights = mixture(space, history)
    parzen = _parzen.points(space, history, rng.getrandbits(32))
    draw: Mapping[Source, Callable[[], Point]] = {
        "prior": lambda: from_priors(space, rng),
        "best": lambda: near_best(space, history, rng),
        "parzen": lambda: next(parzen),
        "plain": lambda: space.sample(rng),
    }
    while True:
        (source,) = rng.choices(list(weights), list(weights.values()))
        yield draw[source]()


def mixture(space: SearchSpace, history: History) -> dict[Source, float]:
    """Returns the probability of each source of the next point."""
    results = len(history.with_results)
    if not history.ranked():
        return {"prior": 1 - PLAIN, "best": 0.0, "parzen": 0.0, "plain": PLAIN}
    prior = (1 - PLAIN) * _trust(space, history) * PATIENCE / (PATIENCE + results)
    own = 1 - PLAIN - prior
    parzen = own * PARZEN if results >= STARTUP else 0.0
    return {"prior": prior, "best": own - parzen, "parzen": parzen, "plain": PLAIN}


def _trust(space: SearchSpace, history: History) -> float:
    """Returns how well the priors explain the good points, against the neighbourhood of the best point; 0 to 1."""
    ranked = history.ranked()
    good = ranked[: max(1, len(ranked) // 3)]
    best = ranked[0].point
    prior = around = 0.0
    for place, seen in enumerate(good):
        weight = len(good) - place
        prior += weight * math.prod(
            density(domain, domain.prior, SPREAD, seen.point[name])
            for name, domain in space.domains.items()
            if name in seen.point and domain.prior is not None
        )
        around += weight * math.prod(
            MOVES * density(domain, best[name], SPREAD, seen.point[name]) + 1 - MOVES
            for name, domain in space.domains.items()
            if name in seen.point and name in best
        )
    return prior / (prior + around)


def from_priors(space: SearchSpace, rng: Random) -> Point:
    """Draws a point near the priors; fields without a prior are drawn at random."""
    return space.fill(
        lambda _, domain: domain.sample(rng) if domain.prior is None else near(domain, domain.prior, SPREAD, rng)
    )


def near_best(space: SearchSpace, history: History, rng: Random) -> Point:
    """Draws a point near the best point so far: some of its fields change."""
    best = history.ranked()[0].point
    fields = [name for name in space.order if name in best]
    always = rng.choice(fields) if fields else None

    def choose(name: str, domain: Domain) -> Value:
        if name not in best:
            return domain.sample(rng)
        if name == always or rng.random() < MOVES or not domain.contains(best[name]):
            return near(domain, best[name], SPREAD, rng)
        return best[name]

    return space.fill(choose)


def _beginning(space: SearchSpace, rng: Random) -> list[Point]:
    """Returns the portfolio points that lie in the space; if there are none, the point of all priors."""
    known = [point for point in space.portfolio if space.contains(point)]
    if known:
        return known
    return [space.fill(lambda _, domain: domain.sample(rng) if domain.prior is None else domain.prior)]


def near(domain: Domain, centre: Value, spread: float, rng: Random) -> Value:
    """Draws a value near `centre`; a number from a normal distribution that is cut at both ends of the domain.

    `spread` is the standard deviation as a share of the domain's length.
    """
    if not domain.is_ordered:
        options = domain.values() or ()
        weights = [FAVOUR if identity(option) == identity(centre) else 1.0 for option in options]
        return rng.choices(options, weights)[0]
    middle = domain.position(centre)
    for _ in range(MOST_DRAWS):
        position = rng.gauss(middle, spread)
        if 0 <= position <= 1:
            return domain.at(position)
    return centre


def density(domain: Domain, centre: Value, spread: float, value: Value) -> float:
    """Returns the probability of `value` under `near`, over its probability in a draw at random."""
    if not domain.is_ordered:
        options = domain.values() or ()
        weight = FAVOUR if identity(value) == identity(centre) else 1.0
        return weight * len(options) / (FAVOUR + len(options) - 1)
    normal = NormalDist(domain.position(centre), spread)
    return normal.pdf(domain.position(value)) / (normal.cdf(1) - normal.cdf(0))
