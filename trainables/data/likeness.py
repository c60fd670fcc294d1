"""Tells whether two parts of the data look like rows of one kind, by the values that some property of the rows has."""

from __future__ import annotations

from collections import Counter

MOST_VALUES = 50
"""What has more different values than this, as most answers do, is not compared."""
_LEAST_GAP = 0.25
"""The least part of the rows that would need another value for the parts to be alike."""
_CHANCE = 1e-6
_LEAST_EXPECTED = 5
"""Values that are rarer in the smaller part are taken together: else the chi-square distribution does not hold."""


def difference(what: str, rows: Counter[str], train: Counter[str], independent: float) -> str:
    """Returns how a property of the rows differs from that of those to train on; "" unless much and beyond chance.

    By Pearson's chi-square test of homogeneity.

    Args:
        what: the property, such as "completions".
        rows: value -> rows that have it.
        independent: independent units for each row; below 1 where rows belong together.
    """
    both, own, others = rows + train, rows.total(), train.total()
    if len(both) > MOST_VALUES or not own or not others:
        return ""
    least = _LEAST_EXPECTED * (own + others) / min(own, others)
    shares = {value: (rows[value] / own, train[value] / others) for value in both}
    cells = [shares[value] for value, count in both.items() if count >= least]
    if len(cells) < len(both):
        cells.append((1 - sum(mine for mine, _ in cells), 1 - sum(theirs for _, theirs in cells)))
    if sum(abs(mine - theirs) for mine, theirs in cells) / 2 < _LEAST_GAP:
        return ""
    from scipy.special import chdtrc  # here, as its import takes longer than most checks of a sweep file

    statistic = sum(
        (mine - theirs) ** 2 / (mine / others + theirs / own) for mine, theirs in cells if mine + theirs > 0
    )
    if chdtrc(len(cells) - 1, independent * statistic) > _CHANCE:
        return ""
    value, (mine, theirs) = max(shares.items(), key=lambda each: abs(each[1][0] - each[1][1]))
    return f"other {what} ({value[:40]!r}: {mine:.0%} of them, {theirs:.0%} in data.train)"
