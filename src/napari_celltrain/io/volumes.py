"""Finding and opening volumes: TIFF, OME-TIFF, ImageJ TIFF and OME-Zarr; and keeping decoded ones in memory."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from napari_celltrain.io.axes import SeveralChannelsError, unreadable
from napari_celltrain.io.tiff import TiffVolume
from napari_celltrain.io.volume import LazyArray, Volume, in_gb, may_be_denied
from napari_celltrain.io.zarr import ZarrVolume, is_zarr
from napari_celltrain.values.config import DataConfig, Spacing

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
    if is_file and not _is_tiff(path):
        raise unreadable(path.name, "This is not a TIFF file or OME-Zarr folder.", f"{_EXPORT}.")
    if is_file or is_zarr(path):
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
        if not path.exists():
            raise unreadable(path.name, f"The file does not exist in {path.parent}.")
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
    return re.sub(r"(?<=.)(\.ome)?(\.tiff?|\.zarr)?\Z", "", path.name, count=1, flags=re.IGNORECASE | re.DOTALL)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts ``img2`` before ``img10``, and upper and lower case together."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


def _collect(folder: Path, found: list[Path], others: Counter[str], visited: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in visited:  # a link back to a folder above
        return
    visited.add(real)
    with may_be_denied(folder):
        entries = [(entry, entry.is_dir()) for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    for entry, is_folder in entries:
        if is_zarr(entry) if is_folder else _is_tiff(entry):
            found.append(entry)
        elif is_folder:
            _collect(entry, found, others, visited)
        else:
            others[entry.suffix.lower() or "(no ending)"] += 1


class VolumeCache:
    """Gives volumes as arrays, decoding each file once; safe to use from several threads.

    The first ones are kept: a volume that still fits the budget stays decoded until :meth:`release`, and those after
    it are read piece by piece from their files.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        # the volumes are held so that the key of an array in memory, its identity, cannot become that of another one
        self._kept: dict[Hashable, tuple[Volume, NDArray[Any]]] = {}
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes of the volumes that are kept."""
        return sum(volume.nbytes for volume, _ in self._kept.values())

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
        with self._lock:  # other threads wait while one decodes
            if volume.key in self._kept:
                return self._kept[volume.key][1]
            used = self.used_bytes
            if used + volume.nbytes <= self.budget_bytes:
                # A view, so that an array of the caller's own stays writable for the caller.
                array = volume.read().view()
                array.flags.writeable = False
                self._kept[volume.key] = volume, array
                return array
        lazy = volume.lazy()
        if lazy is not None:
            return lazy
        memory = f"memory for volumes ({in_gb(self.budget_bytes)}, of which {in_gb(used)} are taken)"
        message = f"The volume takes {in_gb(volume.nbytes)} decoded, which does not fit the {memory}"
        remedy = "Save it as OME-Zarr or uncompressed TIFF, or allow more memory for volumes."
        message += ", and a compressed TIFF cannot be read piece by piece."
        raise unreadable(volume.where, message, remedy, "data.memory_budget_gb")

    def release(self, volume: Volume) -> None:
        """Forget a volume, so that its memory can be used for others."""
        with self._lock:
            self._kept.pop(volume.key, None)
