"""A mapping of layers reads as the dict with the same keys, and never changes."""

import random
from collections import UserDict

from sweeps.record.layered import MOST_ABOVE, Layered


def test_it_reads_as_a_dict_and_earlier_ones_stay_as_they_were():
    rng = random.Random(0)
    mine, plain = Layered({"first": 0}), {"first": 0}
    earlier = []
    for value in range(3 * MOST_ABOVE):
        earlier.append((mine, dict(plain)))
        key = f"t{rng.randrange(2 * MOST_ABOVE)}"
        mine, plain = mine.plus(key, value), {**plain, key: value}
        if value % 7 == 0:
            assert list(mine.items()) == list(plain.items()), "in the order in which the keys came"
    assert mine == plain and mine[key] == value and "none" not in mine
    for then, told in earlier:
        assert then == told and len(then) == len(told)
        assert list(then) == list(told) and list(then.values()) == list(told.values()) and then.keys() == told.keys()


def test_a_new_key_copies_only_what_is_new():
    copies = []

    class Counted(UserDict[int, int]):
        def __iter__(self):
            copies.append(1)
            return super().__iter__()

    mine = Layered(Counted({n: n for n in range(1000)}))
    for n in range(MOST_ABOVE - 1):
        mine = mine.plus(-1 - n, n)
        assert not copies and mine[-1 - n] == n and mine[n] == n
    assert len(mine) == 1000 + MOST_ABOVE - 1 and copies == [1]
