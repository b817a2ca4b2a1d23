"""The files of a prediction: what they are called, and writing them from what may be larger than memory."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.io.volume import LazyArray, Volume
from napari_celltrain.io.writer import write_planes
from napari_celltrain.io.zarr_writer import Checklist, refuse_foreign, replace_folder, write_ome_zarr
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.files import TEMPORARY_PREFIX

FileFormat = Literal["auto", "tiff", "zarr"]
_ENDINGS = {"tiff": ".tif", "zarr": ".ome.zarr"}
_BYTES_AT_ONCE = 2**28
"""Of the planes that are held while a TIFF is written."""
_PLANES_AT_ONCE = 32
"""As many as a chunk of the store is deep."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the results of one volume go."""

    folder: Path
    name: str
    file_format: Literal["tiff", "zarr"]

    def path(self, suffix: str = "") -> Path:
        return self.folder / f"{self.name}{suffix}{_ENDINGS[self.file_format]}"


class Cancelled(Exception):  # noqa: N818 - nothing went wrong
    """The user does not want the file any more, of which a part is written."""


def plan_targets(
    volumes: Sequence[Volume], output: Path, file_format: FileFormat, suffixes: Sequence[str]
) -> list[Target]:
    """Where the results of each volume go; makes the folder. ``suffixes`` are of what is written besides labels.

    Raises :class:`DataError` for what would overwrite an input, one result by another, or a folder of others.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file. Give a folder for the results with --output.")
    folders = {volume.path.resolve().parent for volume in volumes if volume.path is not None}
    if output.resolve() in folders:
        raise DataError(f"{output} holds the images themselves. Give another folder for the results with --output.")
    targets = [Target(output, volume.name, _format_for(volume, file_format)) for volume in volumes]
    taken: dict[str, Volume] = {}
    for volume, target in zip(volumes, targets, strict=True):
        for suffix in ("", *suffixes):
            path = target.path(suffix)
            other = taken.setdefault(path.name.casefold(), volume)  # some disks take a.tif and A.tif for one
            if other is not volume:
                raise DataError(
                    f"The results of {other.where} and {volume.where} would both be written to {path.name}. "
                    "Segment them into separate folders."
                )
            if target.file_format == "zarr":
                refuse_foreign(path)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {output} cannot be made: {error.strerror}.") from error
    return targets


def _format_for(volume: Volume, file_format: FileFormat) -> Literal["tiff", "zarr"]:
    """By default that of the input."""
    if file_format != "auto":
        return file_format
    return "zarr" if volume.path is not None and volume.path.is_dir() else "tiff"


def probability_suffixes(card: ModelCard) -> list[str]:
    """What the files of probabilities add to a volume's name, one for each output of the network."""
    if card.target == "objects":
        from napari_celltrain.values.decoding import OBJECT_MAPS

        return ["_probability", *(f"_{name}" for name in OBJECT_MAPS[1:])]
    if card.network.out_channels == 1:
        return ["_probability"]
    return [f"_probability_class{value}" for value in card.class_values]


def write_result(
    target: Target,
    suffix: str,
    array: LazyArray,
    voxel_size: Spacing | None,
    cancelled: Callable[[], bool],
    *,
    partial: tuple[Path, Checklist] | None = None,
) -> Iterator[tuple[int, int]]:
    """Write one file, read piece by piece from ``array``; gives (done, total) on the way.

    ``partial``: where an OME-Zarr grows until it is complete, and what of it is done already. Raises
    :class:`Cancelled` where ``cancelled()`` turns true, :class:`DataError` where it cannot be written.
    """
    path = target.path(suffix)
    if target.file_format == "tiff":
        write_planes(path, _planes(array, cancelled), _zyx(array), np.dtype(array.dtype), voxel_size)
        return
    kind: Literal["image", "labels"] = "image" if suffix else "labels"
    growing = partial[0] if partial else target.folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    checklist = partial[1] if partial else None
    try:
        for progress in write_ome_zarr(
            growing, array, voxel_size, kind=kind, name=f"{target.name}{suffix}", checklist=checklist
        ):
            if cancelled():
                raise Cancelled
            yield progress
        replace_folder(growing, path)
    finally:
        if partial is None:
            shutil.rmtree(growing, ignore_errors=True)


def _planes(array: LazyArray, cancelled: Callable[[], bool]) -> Iterator[NDArray[Any]]:
    depth, height, width = _zyx(array)
    plane = height * width * np.dtype(array.dtype).itemsize
    at_once = _PLANES_AT_ONCE
    while at_once > 1 and at_once * plane > _BYTES_AT_ONCE:
        at_once //= 2  # so that no group of planes reaches into two chunks
    for first in range(0, depth, at_once):
        for plane_YX in np.asarray(array[first : first + at_once, 0:height, 0:width]):
            if cancelled():
                raise Cancelled
            yield plane_YX


def _zyx(array: LazyArray) -> tuple[int, int, int]:
    z, y, x = (int(length) for length in array.shape)
    return z, y, x
