"""Decoded volumes in memory, as far as they fit."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import psutil
from numpy.typing import NDArray

from napari_celltrain.config import DataConfig
from napari_celltrain.data.arrays import LazyArray, Volume, in_gb
from napari_celltrain.errors import DataError


@dataclass
class _Slot:
    """The place of one volume; its lock makes others wait while one thread decodes."""

    volume: Volume
    """Held so that the key of an array in memory, which is its identity, cannot be taken over by another one."""
    keeps: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    array: NDArray[Any] | None = None


class VolumeStore:
    """Gives volumes as arrays, decoding each file once; safe to use from several threads.

    Who comes first is kept: a volume that still fits the budget stays decoded until :meth:`release`, and those
    after it are read piece by piece from their files.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._reserved = 0
        self._slots: dict[Hashable, _Slot] = {}
        self._lock = threading.Lock()

    @staticmethod
    def default_budget(config: DataConfig) -> int:
        """Bytes to keep: what the user allows, or half of what is free now."""
        if config.memory_budget_gb is not None:
            return int(config.memory_budget_gb * 1e9)
        return int(psutil.virtual_memory().available // 2)

    @property
    def used_bytes(self) -> int:
        """Bytes of the volumes that are kept, those being decoded included."""
        return self._reserved

    def get(self, volume: Volume) -> LazyArray:
        """The decoded array (do not write into it), or the lazy one where it does not fit the budget.

        Raises :class:`DataError` where it neither fits nor can be read piece by piece.
        """
        slot = self._slot(volume)
        if not slot.keeps:
            return self._lazy(volume)
        with slot.lock:
            if slot.array is None:
                try:
                    # A view, so that an array of the caller's own stays writable for the caller.
                    slot.array = volume.read().view()
                    slot.array.flags.writeable = False
                except BaseException:
                    self.release(volume)
                    raise
            return slot.array

    def release(self, volume: Volume | None = None) -> None:
        """Forget one volume, or all, so that their memory can be used for others."""
        with self._lock:
            keys = list(self._slots) if volume is None else [volume.key]
            for key in keys:
                slot = self._slots.pop(key, None)
                if slot is not None and slot.keeps:
                    self._reserved -= slot.volume.nbytes

    def _slot(self, volume: Volume) -> _Slot:
        with self._lock:
            slot = self._slots.get(volume.key)
            if slot is None:
                keeps = self._reserved + volume.nbytes <= self.budget_bytes
                slot = self._slots[volume.key] = _Slot(volume, keeps)
                self._reserved += volume.nbytes if keeps else 0
            return slot

    def _lazy(self, volume: Volume) -> LazyArray:
        lazy = volume.lazy()
        if lazy is None:
            raise DataError(
                f"{volume.where}: takes {in_gb(volume.nbytes)} decoded, which does not fit the memory for volumes "
                f"({in_gb(self.budget_bytes)}, of which {in_gb(self._reserved)} are taken), and compressed TIFF cannot "
                "be read piece by piece. Save it as OME-Zarr or uncompressed TIFF, or raise data.memory_budget_gb."
            )
        return lazy
