"""A mapping that never changes. Another one with one more key costs little, however large it is. Pure."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
MOST_ABOVE = 100
"""Keys of the upper layer, which is copied with each key; then it becomes part of the lower one, which is shared."""


class Layered(Mapping[Key, Value]):
    """Keys and values in two layers, in the order in which the keys came; the upper layer holds what is new."""

    def __init__(self, below: Mapping[Key, Value], above: Mapping[Key, Value] | None = None) -> None:
        """What `above` holds stands in place of what `below` holds. Nobody may change either."""
        # One attribute: another thread must not see one layer from before it was merged, and the other from after.
        self._layers: tuple[Mapping[Key, Value], Mapping[Key, Value]] = below, above or {}

    def plus(self, key: Key, value: Value) -> Layered[Key, Value]:
        """The same with another value at a key."""
        below, above = self._layers
        more = {**above, key: value}
        return Layered(below, more) if len(more) < MOST_ABOVE else Layered({**below, **more})

    def __getitem__(self, key: Key) -> Value:
        below, above = self._layers
        return above[key] if key in above else below[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def keys(self) -> KeysView[Key]:
        """As those of a dict."""
        return self._whole().keys()

    def values(self) -> ValuesView[Value]:
        """As those of a dict."""
        return self._whole().values()

    def items(self) -> ItemsView[Key, Value]:
        """As those of a dict."""
        return self._whole().items()

    def _whole(self) -> Mapping[Key, Value]:
        """Both layers in one, which is kept: whoever looks through all of it does so again."""
        below, above = self._layers
        if above:
            below = {**below, **above}
            self._layers = below, {}
        return below
