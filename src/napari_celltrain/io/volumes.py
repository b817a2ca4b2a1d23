"""Finding and opening volumes: TIFF of all kinds, folders of single planes and OME-Zarr; and keeping decoded ones."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.io.axes import Layout, SeveralChannelsError, unreadable
from napari_celltrain.io.tiff import TiffVolume, is_single_page
from napari_celltrain.io.tiff_metadata import SUFFIXES
from napari_celltrain.io.volume import LazyArray, Volume, in_gb, is_zarr, may_be_denied
from napari_celltrain.values.config import DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.outside import kind_of, shown
from napari_celltrain.values.text import count

_EXPORT = "Export the images as TIFF (in Fiji: File ▸ Save As ▸ Tiff)"


def find_volumes(path: Path) -> list[Path]:
    """All TIFF files and OME-Zarr folders in ``path`` and its subfolders, 2 before 10; or ``path``, if it is one.

    A folder whose TIFF files hold a single plane each is one volume.
    Hidden files are left out. Raises :class:`DataError` where there is nothing to use, naming what there is.
    """
    path = Path(path)
    with may_be_denied(path):
        exists, is_file = path.exists(), not path.is_dir()
    if not exists:
        remedy = "Choose another folder, or connect the drive it is on."
        raise unreadable(shown(path), "The folder does not exist.", remedy)
    if is_file and not _is_tiff(path):
        raise unreadable(path.name, "This is not a TIFF file or OME-Zarr folder.", f"{_EXPORT}.")
    if is_file or is_zarr(path):
        return [path]
    found: list[Path] = []
    others: Counter[str] = Counter()
    _collect(path, found, others)
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
        is_folder = path.is_dir()
        if not path.exists():
            raise unreadable(path.name, f"The file does not exist in {path.parent}.")
    if kind_of(path) == "other":
        raise unreadable(path.name, "This is a pipe or a device, not a file.", "Choose another one.")
    kind: Callable[..., Volume] = TiffVolume
    if is_folder and not is_zarr(path) and _tiffs_in(path):
        kind = PlanesVolume
    elif is_folder:
        from napari_celltrain.io.zarr import ZarrVolume  # slow to import, and many never open one

        kind = ZarrVolume
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
    return re.sub(
        r"(?<=.)(\.ome)?(\.tiff?|\.btf|\.tf[28]|\.zarr)?\Z", "", path.name, count=1, flags=re.IGNORECASE | re.DOTALL
    )


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts ``img2`` before ``img10``, and upper and lower case together."""
    parts = re.split(r"(\d+)", text.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _collect(root: Path, found: list[Path], others: Counter[str]) -> None:
    visited = set[tuple[int, int]]()
    folders = [root]
    while folders:
        folder = folders.pop()
        with may_be_denied(folder):
            entries = [(entry, entry.is_dir()) for entry in folder.iterdir() if not entry.name.startswith(".")]
            identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in visited:  # a link back to a folder above
            continue
        visited.add((identity.st_dev, identity.st_ino))
        tiffs = _tiffs_in(folder)
        if _are_planes(tiffs):
            found.append(folder)
            entries = [(entry, is_folder) for entry, is_folder in entries if entry not in tiffs]
        for entry, is_folder in entries:
            if is_zarr(entry) if is_folder else _is_tiff(entry):
                found.append(entry)
            elif is_folder:
                folders.append(entry)
            else:
                others[entry.suffix.lower() or "(no ending)"] += 1


def _tiffs_in(folder: Path) -> list[Path]:
    found = (entry for entry in folder.iterdir() if not entry.name.startswith(".") and _is_tiff(entry))
    return sorted((entry for entry in found if not entry.is_dir()), key=lambda entry: natural_key(entry.name))


def _are_planes(tiffs: Sequence[Path]) -> bool:
    """Whether these are the files of one folder of single planes."""
    if len(tiffs) < 2 or not all(map(is_single_page, tiffs)):
        return False
    with suppress(DataError):
        return bool(_open_plane(tiffs[0]).shape)
    return False


def _open_plane(path: Path, voxel_size: Spacing | None = None) -> TiffVolume:
    return TiffVolume(path, path.stem, axes=None, channel=None, voxel_size=voxel_size, as_plane=True)


class PlanesVolume(Volume):
    """A folder of TIFF files that hold one plane each, as one volume: in the order that their metadata give, or the
    only number in their names that differs."""

    def __init__(
        self, path: Path, name: str, *, axes: str | None, channel: int | None, voxel_size: Spacing | None
    ) -> None:
        files = _tiffs_in(path)
        planes = [_open_plane(file, voxel_size) for file in files]
        first, where = planes[0], path.name
        if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
            raise _no_stack(where, len(files), "differ in size or type")
        numbers = [plane.plane for plane in planes if plane.plane is not None]
        if len(numbers) < len(planes):
            numbers = [(0, 0, 0, number) for number in _numbers_in(where, [file.name for file in files])]
        if len({number[:2] for number in numbers}) > 1:
            raise _no_stack(where, len(files), "are of several positions or time points")
        channels = sorted({number[2] for number in numbers})
        if channel is None and len(channels) > 1:
            raise SeveralChannelsError(where, len(channels))
        if (chosen := channel or 0) >= len(channels):
            have = f"there {'is' if len(channels) == 1 else 'are'} {count(len(channels), 'channel')}, counted from 0"
            raise unreadable(where, f"There is no channel {chosen}: {have}.", "Choose another one.", "data.channel")
        of_channel = {
            number[3]: plane for number, plane in zip(numbers, planes, strict=True) if number[2] == channels[chosen]
        }
        start = 0 if first.plane else min(of_channel)
        expected = range(start, max(max(of_channel) + 1, first.slices))
        if len(set(numbers)) < len(planes):
            raise _no_stack(where, len(files), "have numbers that occur twice")
        gap = next((number for number in expected if number not in of_channel), None)
        if gap is not None:
            raise _no_stack(where, len(files), f"have gaps: number {gap} is missing")
        self._planes = [of_channel[number] for number in expected]
        layout = Layout((None, None, None), (0, 1, 2), (len(self._planes), *first.shape[1:]))
        super().__init__(name, layout, first.dtype, first.voxel_size, path)
        self.key = (str(path.resolve()), chosen), layout
        message = f"Its {count(len(files), 'file')} are taken as the planes of one volume."
        remedy = "If they are separate images, they cannot be used: CellTrain needs 3D volumes."
        taken = Problem("stacked-planes", where, message, remedy, "warning")
        self.remarks = (taken, *(replace(remark, where=where) for remark in first.remarks))

    def _part(self, key: Any) -> NDArray[Any]:
        z, y, x = key
        return np.concatenate([plane.read()[:, y, x] for plane in self._planes[z]])


def _numbers_in(where: str, names: Sequence[str]) -> list[int]:
    """The one number in names that differs from file to file. Raises :class:`DataError` where there is no such."""
    parts = [re.split(r"(\d+)", name) for name in names]
    varying = [index for index, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1]
    if len({len(part) for part in parts}) > 1 or len(varying) != 1 or varying[0] % 2 == 0:
        raise _no_stack(where, len(names), "are not told apart by one number in their names")
    if re.search(r"(?:^|[_\-. ])(t|tp|time|frame)[_\-. ]*\Z", parts[0][varying[0] - 1], re.IGNORECASE):
        raise _no_stack(where, len(names), "are numbered as time points")
    return [int(part[varying[0]]) for part in parts]


def _no_stack(where: str, num_files: int, reason: str) -> DataError:
    message = f"The folder holds {num_files} single planes (2D images), which {reason}, so they make no volume."
    remedy = "Put the planes of each volume into a folder of its own, numbered without gaps, or save each as one file."
    return unreadable(where, message, remedy)


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
