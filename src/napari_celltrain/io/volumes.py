"""Finding and opening volumes: TIFF, OME-TIFF, ImageJ TIFF and OME-Zarr; and keeping decoded ones in memory."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from napari_celltrain.io.axes import SeveralChannelsError, unreadable
from napari_celltrain.io.tiff import TiffVolume
from napari_celltrain.io.volume import LazyArray, Volume, in_gb, may_be_denied
from napari_celltrain.io.zarr import ZarrVolume, is_zarr
from napari_celltrain.values.config import DataConfig, Spacing

_TIFF_SUFFIXES = (".tif", ".tiff")
_EXPORT = "Export the images as TIFF (in Fiji: File ▸ Save As ▸ Tiff)"


def find_volumes(path: Path) -> list[Path]:
    """All TIFF files and OME-Zarr folders in ``path`` and its subfolders, 2 before 10; or ``path``, if it is one.

    Hidden files are left out. Raises :class:`DataError` where there is nothing to use, naming what there is.
    """
    path = Path(path)
    with may_be_denied(path):
        exists, is_file = path.exists(), path.is_file()
    if not exists:
        remedy = "Choose another folder, or connect the drive it is on."
        raise unreadable(str(path), "The folder does not exist.", remedy)
    if is_file:
        if not _is_tiff(path):
            raise unreadable(path.name, "This is not a TIFF file or OME-Zarr folder.", f"{_EXPORT}.")
        return [path]
    if is_zarr(path):
        return [path]
    found: list[Path] = []
    others: Counter[str] = Counter()
    _collect(path, found, others, set())
    if not found and others:
        listed = ", ".join(f"{number} × {ending}" for ending, number in others.most_common(5))
        message = f"The folder holds no TIFF or OME-Zarr, only other files ({listed})."
        raise unreadable(str(path), message, f"{_EXPORT} and choose their folder.")
    if not found:
        remedy = "Choose the folder that holds the TIFF or OME-Zarr files."
        raise unreadable(str(path), "This is an empty folder.", remedy)
    return sorted(found, key=lambda file: natural_key(file.relative_to(path).as_posix()))


def open_volume(
    path: Path, *, axes: str | None = None, channel: int | None = None, voxel_size: Spacing | None = None
) -> Volume:
    """Read the header of one volume. ``axes`` and ``voxel_size`` override those of the file.

    Raises :class:`DataError`, naming the file, for what is not one 3D volume of numbers, or is damaged.
    """
    path = Path(path)
    with may_be_denied(path.parent):
        kind = ZarrVolume if path.is_dir() else TiffVolume
    return kind(path, stem_of(path), axes=axes, channel=channel, voxel_size=voxel_size)


def open_labels(path: Path, *, axes: str | None = None, voxel_size: Spacing | None = None) -> Volume:
    """As :func:`open_volume`, for labels: they have one channel, so of ``axes`` only Z, Y and X are meant."""
    order = None if axes is None else "".join(letter for letter in axes.upper() if letter in "ZYX")
    try:
        return open_volume(path, axes=order, voxel_size=voxel_size)
    except SeveralChannelsError as error:
        message = f"The volume has {error.num_channels} channels, and labels must have one."
        raise unreadable(Path(path).name, message, "Save the labels on their own.") from None


def stem_of(path: Path) -> str:
    """The file's name without ``.tif``, ``.zarr`` and the like, and without ``.ome``."""
    stem = path.name
    for suffix in (*_TIFF_SUFFIXES, ".zarr"):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts ``img2`` before ``img10``, and upper and lower case together."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in _TIFF_SUFFIXES


def _collect(folder: Path, found: list[Path], others: Counter[str], visited: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in visited:  # a link back to a folder above
        return
    visited.add(real)
    with may_be_denied(folder):
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
        folders = {entry for entry in entries if entry.is_dir()}
    for entry in entries:
        if entry in folders:
            if is_zarr(entry):
                found.append(entry)
            else:
                _collect(entry, found, others, visited)
        elif _is_tiff(entry):
            found.append(entry)
        else:
            others[entry.suffix.lower() or "(no ending)"] += 1


@dataclass
class _Slot:
    """The place of one volume; its lock makes others wait while one thread decodes."""

    volume: Volume
    """Held so that the key of an array in memory, which is its identity, cannot be taken over by another one."""
    keeps: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    array: NDArray[Any] | None = None


class VolumeCache:
    """Gives volumes as arrays, decoding each file once; safe to use from several threads.

    The first ones are kept: a volume that still fits the budget stays decoded until :meth:`release`, and those after
    it are read piece by piece from their files.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        """Bytes of the volumes that are kept, those being decoded included."""
        self._slots: dict[Hashable, _Slot] = {}
        self._lock = threading.Lock()

    @staticmethod
    def default_budget(config: DataConfig) -> int:
        """Bytes to keep: what the user allows, or half of what is free now."""
        if config.memory_budget_gb is not None:
            return int(config.memory_budget_gb * 1e9)
        return int(psutil.virtual_memory().available // 2)

    def get(self, volume: Volume) -> LazyArray:
        """The decoded array (do not write into it), or the lazy one where it does not fit the budget.

        Raises :class:`DataError` where it neither fits nor can be read piece by piece.
        """
        with self._lock:
            slot = self._slots.get(volume.key)
            if slot is None:
                slot = _Slot(volume, keeps=self.used_bytes + volume.nbytes <= self.budget_bytes)
                self._slots[volume.key] = slot
                self.used_bytes += volume.nbytes if slot.keeps else 0
        if not slot.keeps:
            lazy = volume.lazy()
            if lazy is not None:
                return lazy
            raise unreadable(
                volume.where,
                f"The volume takes {in_gb(volume.nbytes)} decoded, which does not fit the memory for volumes "
                f"({in_gb(self.budget_bytes)}, of which {in_gb(self.used_bytes)} are taken), and a compressed TIFF "
                "cannot be read piece by piece.",
                "Save it as OME-Zarr or uncompressed TIFF, or allow more memory for volumes.",
                "data.memory_budget_gb",
            )
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
            for key in list(self._slots) if volume is None else [volume.key]:
                slot = self._slots.pop(key, None)
                if slot is not None and slot.keeps:
                    self.used_bytes -= slot.volume.nbytes
