"""Writing OME-Zarr 0.5 (Zarr v3): a pyramid of ever coarser levels, block by block, so that memory stays flat.

Specification: https://ngff.openmicroscopy.org/0.5/. Coarser levels take every second voxel, since labels must not be
mixed.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from napari_celltrain import __version__
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values import files
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError

if TYPE_CHECKING:
    import zarr

CHUNK: ZYX = (32, 128, 128)
"""Voxels of a chunk."""
_AT_ONCE: ZYX = (1, 4, 4)
"""Chunks that are written at once."""
_SMALLEST = 256
"""No coarser level is made of one that is no longer than this along any axis."""
_CREATOR = "napari-celltrain"


class Checklist(Protocol):
    """Which blocks are written already, so that writing can go on where it was interrupted."""

    def is_done(self, number: int) -> bool: ...

    def mark_done(self, number: int) -> None: ...


class _NoChecklist:
    def is_done(self, number: int) -> bool:
        return False

    def mark_done(self, number: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Level:
    shape: ZYX
    factor: ZYX
    """Voxels of the finest level for one of this level."""


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

    With a ``checklist`` an interrupted writing goes on. Raises :class:`DataError` naming the folder.
    """
    checklist = checklist or _NoChecklist()
    levels = plan_levels(_zyx(source.shape), voxel_size)
    try:
        arrays = _open_levels(folder, levels, source.dtype, voxel_size, kind, name)
        works = [(level, block) for level in range(len(levels)) for block in _blocks(levels[level].shape)]
        for number, (level, block) in enumerate(works):
            if not checklist.is_done(number):
                arrays[level][block] = source[block] if level == 0 else _finer(arrays, levels, level, block)
                checklist.mark_done(number)
            yield number + 1, len(works)
    except OSError as error:
        raise files.refusal(folder, error, DataError) from error


def plan_levels(shape: ZYX, voxel_size: Spacing | None) -> list[_Level]:
    """Each level halves the axes whose voxels are the smallest, so that they become as even as they can be."""
    levels = [_Level(shape, (1, 1, 1))]
    while max(levels[-1].shape) > _SMALLEST:
        last = levels[-1]
        sizes = [size * factor for size, factor in zip(voxel_size or (1.0, 1.0, 1.0), last.factor, strict=True)]
        smallest = min(size for size, length in zip(sizes, last.shape, strict=True) if length > 1)
        steps = [
            2 if length > 1 and size < 1.5 * smallest else 1 for size, length in zip(sizes, last.shape, strict=True)
        ]
        levels.append(
            _Level(
                _zyx(-(-length // step) for length, step in zip(last.shape, steps, strict=True)),
                _zyx(factor * step for factor, step in zip(last.factor, steps, strict=True)),
            )
        )
    return levels


def replace_folder(new: Path, target: Path) -> None:
    """Move ``new`` to ``target``; a folder that this program has written there earlier is deleted.

    Raises :class:`DataError` where anything else is in the way.
    """
    refuse_foreign(target)
    old = target.with_name(f".tmp-{secrets.token_hex(4)}")
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except OSError as error:
        raise files.refusal(target, error, DataError) from error
    shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(target: Path) -> None:
    """Raise :class:`DataError` where ``target`` exists and is not of our own writing."""
    if not target.exists():
        return
    try:
        attributes = json.loads((target / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        ours = attributes["_creator"]["name"] == _CREATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(
            f"{target} exists and was not written by CellTrain, so it is not replaced. Delete or move it, or choose "
            "another folder for the results."
        )


def _open_levels(
    folder: Path, levels: list[_Level], dtype: np.dtype[Any], voxel_size: Spacing | None, kind: str, name: str
) -> list[zarr.Array[Any]]:
    """The arrays of all levels: made, or those that an interrupted writing has left."""
    import zarr

    metadata: dict[str, Any] = {
        "ome": _metadata(levels, voxel_size, kind, name),
        "_creator": {"name": _CREATOR, "version": __version__},
    }
    group = zarr.open_group(str(folder), mode="a", zarr_format=3)
    group.attrs.put(metadata)
    return [
        group[str(number)]  # type: ignore[misc]  # an array by what we wrote
        if str(number) in group
        else group.create_array(
            str(number),
            shape=level.shape,
            chunks=_zyx(min(size, length) for size, length in zip(CHUNK, level.shape, strict=True)),
            dtype=dtype,
            dimension_names=["z", "y", "x"],
        )
        for number, level in enumerate(levels)
    ]


def _metadata(levels: list[_Level], voxel_size: Spacing | None, kind: str, name: str) -> dict[str, Any]:
    unit = {} if voxel_size is None else {"unit": "micrometer"}
    datasets = [
        {
            "path": str(number),
            "coordinateTransformations": [
                {
                    "type": "scale",
                    "scale": [
                        float(size) * factor
                        for size, factor in zip(voxel_size or (1.0, 1.0, 1.0), level.factor, strict=True)
                    ],
                }
            ],
        }
        for number, level in enumerate(levels)
    ]
    image = {
        "name": name,
        "type": "nearest",
        "axes": [{"name": letter, "type": "space", **unit} for letter in "zyx"],
        "datasets": datasets,
    }
    return {"version": "0.5", "multiscales": [image]} | ({"image-label": {}} if kind == "labels" else {})


def _blocks(shape: ZYX) -> Iterator[tuple[slice, slice, slice]]:
    steps = [size * count for size, count in zip(CHUNK, _AT_ONCE, strict=True)]
    starts = (range(0, length, step) for length, step in zip(shape, steps, strict=True))
    for corner in product(*starts):
        z, y, x = (
            slice(start, min(start + step, length)) for start, step, length in zip(corner, steps, shape, strict=True)
        )
        yield z, y, x


def _finer(arrays: list[zarr.Array[Any]], levels: list[_Level], level: int, block: tuple[slice, ...]) -> Any:
    """What a block of a level is made of: every second voxel of the level before."""
    steps = (new // old for new, old in zip(levels[level].factor, levels[level - 1].factor, strict=True))
    return arrays[level - 1][
        tuple(slice(part.start * step, part.stop * step, step) for part, step in zip(block, steps, strict=True))
    ]


def _zyx(lengths: Any) -> ZYX:
    z, y, x = (int(length) for length in lengths)
    return z, y, x
