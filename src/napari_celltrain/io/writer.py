"""Writing volumes that Fiji and napari open with their voxel size: as TIFF, or block by block as OME-Zarr 0.5.

OME-Zarr (Zarr v3, https://ngff.openmicroscopy.org/0.5/) is written as a pyramid of ever coarser levels, which take
every second voxel, since labels must not be mixed. Memory stays flat, and interrupted writing can go on.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_celltrain import __version__
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray, plain_dtype
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.files import sync, temporary, write_with, writing

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

# What the ImageJ format knows, and how much: beyond it, OME-TIFF in 64-bit layout.
_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)
_IMAGEJ_BYTES = 2**32 - 2**25

CHUNK: ZYX = (32, 128, 128)
"""Voxels of a chunk of OME-Zarr."""
_AT_ONCE: ZYX = (1, 4, 4)
"""Chunks that are written at once."""
_SMALLEST = 256
"""No coarser level is made of one that is no longer than this along any axis."""
_CREATOR = "napari-celltrain"


def write_volume(path: Path, array: NDArray[Any], voxel_size: Spacing | None = None) -> None:
    """Write ``array`` (Z, Y, X) as compressed TIFF: whole or not at all.

    8-bit, 16-bit and 32-bit float volumes become ImageJ TIFF; others, and those beyond 4 GB, OME-TIFF. Whole
    numbers of 64 bits are stored with 32 where they fit. Raises :class:`DataError` naming the file.
    """
    if array.ndim != 3:
        raise ValueError(f"a volume has 3 axes, and this array has {array.ndim}")
    dtype = plain_dtype(str(path), array.dtype)
    if dtype.kind in "ui" and dtype.itemsize == 8:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        fitting = [kind for kind in (np.uint32, np.int32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
        if not fitting:
            raise _unwritable(path, f"values from {low} to {high} do not fit 32 bits")
        dtype = np.dtype(fitting[0])
    write_planes(path, array.astype(dtype, copy=False), zyx(array.shape), dtype, voxel_size)


def write_planes(
    path: Path,
    planes_YX: NDArray[Any] | Iterator[NDArray[Any]],
    shape: ZYX,
    dtype: np.dtype[Any],
    voxel_size: Spacing | None = None,
) -> None:
    """As :func:`write_volume`, plane after plane, for what is larger than memory. The planes are of type ``dtype``,
    which is whole numbers of up to 32 bits or float32."""
    metadata: dict[str, Any] = {"axes": "ZYX"}
    options: dict[str, Any] = {"shape": shape, "dtype": dtype, "metadata": metadata, "compression": "zlib"}
    if dtype in _IMAGEJ_TYPES and prod(shape) * dtype.itemsize <= _IMAGEJ_BYTES:
        options["imagej"] = True
        if voxel_size is not None:
            options["resolution"] = (1 / voxel_size[2], 1 / voxel_size[1])
            metadata |= {"spacing": voxel_size[0], "unit": "um"}
    else:
        options |= {"ome": True, "bigtiff": True}
        for letter, size in zip("ZYX", voxel_size or (), strict=False):
            metadata |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": "µm"}
    try:
        with writing(path, DataError):
            write_with(path, lambda file: tifffile.imwrite(file, planes_YX, photometric="minisblack", **options))
    except MemoryError as error:
        raise _unwritable(path, "there is not enough memory", "Close other programs.") from error
    except ValueError as error:
        raise _unwritable(path, str(error)) from error


def _unwritable(path: Path, reason: str, remedy: str = "") -> DataError:
    return DataError(Problem("not-writable", str(path), f"cannot be written: {reason}.", remedy))


# --- OME-Zarr


class Checklist(Protocol):
    """Which blocks are written already, so that writing can go on where it was interrupted."""

    def is_done(self, number: int) -> bool: ...

    def mark_done(self, number: int) -> None: ...


def write_ome_zarr(
    folder: Path,
    source: LazyArray,
    voxel_size: Spacing | None = None,
    *,
    kind: Literal["labels", "image"],
    name: str,
    checklist: Checklist | None = None,
) -> Iterator[tuple[int, int]]:
    """Write ``source`` (Z, Y, X), read block by block, to ``folder``; gives (blocks done, of so many) on the way.

    With a ``checklist`` an interrupted writing goes on; a block is on the disk before it is marked. Raises
    :class:`DataError` naming the folder.
    """
    factors = plan_levels(zyx(source.shape), voxel_size)
    with writing(folder, DataError):
        arrays = _open_levels(folder, factors, source, voxel_size, kind, name)
        works = [(level, block) for level, array in enumerate(arrays) for block in _blocks(array.shape)]
        for number, (level, block) in enumerate(works):
            if checklist is None or not checklist.is_done(number):
                steps = [new // old for new, old in zip(factors[level], factors[max(level - 1, 0)], strict=True)]
                z, y, x = (slice(s.start * step, s.stop * step, step) for s, step in zip(block, steps, strict=True))
                arrays[level][block] = (arrays[level - 1] if level else source)[z, y, x]
                if checklist is not None:
                    checklist.mark_done(number)
            yield number + 1, len(works)
        for unfinished in folder.rglob("*.partial"):  # chunks at which an earlier writing was killed
            unfinished.unlink(missing_ok=True)


def lasting_store(folder: Path) -> Store:
    """A Zarr store in ``folder`` whose every file is on the disk itself once it is written: a marker that is written
    after it is true, also after a power cut."""
    from zarr.storage import LocalStore

    class LastingStore(LocalStore):
        async def set(self, key: str, value: Buffer) -> None:
            await super().set(key, value)
            await asyncio.to_thread(sync, self.root / key, self.root.parent)

    return LastingStore(folder)


def plan_levels(shape: ZYX, voxel_size: Spacing | None) -> list[ZYX]:
    """How many voxels of the finest level one of each level stands for, along z, y and x.

    Each level halves the axes whose voxels are the smallest, so that they become as even as they can be.
    """
    factors: list[ZYX] = [(1, 1, 1)]
    while max(lengths := _coarser(shape, factors[-1])) > _SMALLEST:
        sizes = [size * factor for size, factor in zip(voxel_size or (1.0, 1.0, 1.0), factors[-1], strict=True)]
        smallest = min(size for size, length in zip(sizes, lengths, strict=True) if length > 1)
        axes = zip(factors[-1], sizes, lengths, strict=True)
        factors.append(zyx(f * 2 if length > 1 and size < 1.5 * smallest else f for f, size, length in axes))
    return factors


def _coarser(shape: Sequence[int], factor: ZYX) -> ZYX:
    return zyx(-(-length // step) for length, step in zip(shape, factor, strict=True))


def replace_folder(new: Path, target: Path) -> None:
    """Move ``new`` to ``target``; a folder that this program has written there earlier is deleted.

    Raises :class:`DataError` where anything else is in the way.
    """
    refuse_foreign(target)
    old = temporary(target)
    with writing(target, DataError):
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(target: Path) -> None:
    """Raise :class:`DataError` where ``target`` exists and was not written by this program."""
    if not target.exists():
        return
    try:
        attributes = json.loads((target / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        ours = attributes["_creator"]["name"] == _CREATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        message = "This exists and was not written by CellTrain, so it is not replaced."
        remedy = "Delete or move it, or choose another folder for the results."
        raise DataError(Problem("foreign-folder", str(target), message, remedy))


def _open_levels(
    folder: Path, factors: list[ZYX], source: LazyArray, voxel_size: Spacing | None, kind: str, name: str
) -> list[zarr.Array[Any]]:
    """The arrays of all levels: created, or those that an interrupted writing has left."""
    import zarr

    group = zarr.open_group(lasting_store(folder), mode="a", zarr_format=3)
    unit = {} if voxel_size is None else {"unit": "micrometer"}
    finest = voxel_size or (1.0, 1.0, 1.0)
    scales = [[float(size) * step for size, step in zip(finest, factor, strict=True)] for factor in factors]
    image = {
        "name": name,
        "type": "nearest",
        "axes": [{"name": letter, "type": "space", **unit} for letter in "zyx"],
        "datasets": [
            {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            for number, scale in enumerate(scales)
        ],
    }
    metadata: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
    if kind == "labels":
        metadata["image-label"] = {}
    group.attrs.put({"ome": metadata, "_creator": {"name": _CREATOR, "version": __version__}})
    shapes = [_coarser(source.shape, factor) for factor in factors]
    return [
        group[str(number)]  # type: ignore[misc]  # Zarr's annotations allow a group; this writer makes arrays only
        if str(number) in group
        else group.create_array(
            str(number),
            shape=shape,
            chunks=zyx(map(min, CHUNK, shape)),
            dtype=source.dtype,
            dimension_names=["z", "y", "x"],
        )
        for number, shape in enumerate(shapes)
    ]


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    axes = zip(shape, CHUNK, _AT_ONCE, strict=True)
    spans = [[slice(n, min(n + size * k, length)) for n in range(0, length, size * k)] for length, size, k in axes]
    return product(*spans)
