"""The maps of the last result, as long as the image that they are of is there and the same."""

from __future__ import annotations

from typing import Any

import psutil

from napari_celltrain.widgets.segment.work import Maps

MAX_BYTES = 4 * 2**30
"""Maps larger than this are not kept; nor are those of more than a quarter of the memory that is free."""


class KeptMaps:
    """Holds at most one set of maps. The image is known by its array, which is not kept alive."""

    def __init__(self) -> None:
        self._maps: Maps | None = None
        self._array: Any = None
        self.key: tuple[Any, ...] = ()
        """What else they are of."""

    def keep(self, maps: Maps | None, array: Any, key: tuple[Any, ...]) -> None:
        """Forget what was kept before, and keep ``maps`` where there is room; ``array`` is a weak reference or None."""
        self.forget()
        if maps is None or array is None or maps.nbytes > min(MAX_BYTES, psutil.virtual_memory().available // 4):
            return
        self._maps, self._array, self.key = maps, array, key

    def maps_of(self, array: Any) -> Maps | None:
        """The maps, where they are of this very array."""
        if self._maps is None or array is None or self._array() is not array:
            return None
        return self._maps

    def forget(self) -> None:
        self._maps = self._array = None
        self.key = ()
