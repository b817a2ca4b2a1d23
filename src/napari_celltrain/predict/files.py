"""The files of a prediction: volumes as the network sees them, and the results, which may be larger than memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.resample import Resampled, labels_back, resampled
from napari_celltrain.io.axes import Region, zyx
from napari_celltrain.io.volume import LazyArray, Volume, is_zarr, three_slices
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import CHUNK, Checklist, refuse_foreign, replace_folder, write_ome_zarr, write_planes
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import OBJECT_MAPS
from napari_celltrain.values.errors import DataError, ModelFileError, Problem
from napari_celltrain.values.files import remove_leftovers, temporary
from napari_celltrain.values.outside import kind_of
from napari_celltrain.values.text import sizes

FileFormat = Literal["auto", "tiff", "zarr"]
_ENDINGS = {"tiff": ".tif", "zarr": ".ome.zarr"}
_BYTES_AT_ONCE = 2**28
"""Of the planes that are held while a TIFF is written."""
MAX_SCALE_RATIO = 1.5
"""How far a voxel size may be from that of the training data: beyond it, cells look unlike those in training."""


@dataclass(frozen=True, slots=True)
class View:
    """A :class:`LazyArray` (Z, Y, X) whose voxels are made by ``read`` when it is indexed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Region], NDArray[Any]]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        z, y, x = (slice(*part.indices(length)) for part, length in zip(three_slices(key), self.shape, strict=True))
        return self.read((z, y, x))


@dataclass(frozen=True, slots=True)
class OpenedInput:
    """A volume, and the image in it as the network sees it."""

    volume: Volume
    raw: LazyArray
    """The volume's own voxels, whose intensities are measured, also where the image is resampled."""
    image: LazyArray
    voxel_size: Spacing | None
    """Of ``image``."""

    @property
    def is_resampled(self) -> bool:
        return self.image is not self.raw

    def labels_on_grid(self, labels: LazyArray) -> LazyArray:
        """Labels of ``image``, in the grid of the volume."""
        if not self.is_resampled:
            return labels
        grid = self.volume.shape
        return View(grid, labels.dtype, lambda region: labels_back(labels, grid, region[0])[:, region[1], region[2]])

    def map_on_grid(self, values: LazyArray) -> LazyArray:
        return Resampled(values, self.volume.shape) if self.is_resampled else values


@dataclass(frozen=True, slots=True)
class InputRequest:
    """A file, and what its user says about it."""

    path: Path
    axes: str | None = None
    channel: int | None = None
    voxel_size: Spacing | None = None
    resample: bool = False

    def look(self, card: ModelCard) -> Volume:
        """Read the header. Raises :class:`CellTrainError` for volumes that the model cannot take."""
        channel = card.channel if self.channel is None else self.channel
        try:
            volume = open_volume(self.path, axes=self.axes, channel=channel, voxel_size=self.voxel_size)
        except DataError:
            if card.channel is None or channel != card.channel:
                raise
            # trained on one channel of several; an image that has just one channel is that channel
            volume = open_volume(self.path, axes=self.axes, voxel_size=self.voxel_size)
        if self.resample and (volume.voxel_size is None or card.voxel_size is None):
            whose = "the model" if volume.voxel_size is not None else volume.where
            message = f"cannot be resampled, since the voxel size of {whose} is not known."
            remedy = "Give the voxel size of the image, or do not resample it."
            raise DataError(_problem("no-voxel-size", volume, message, remedy))
        if not self.resample:
            refuse_other_scale(volume, card)
        return volume

    def open(self, card: ModelCard) -> OpenedInput:
        """Read what cannot be read piece by piece, and resample where this is asked for."""
        volume = self.look(card)
        raw = volume.lazy_or_whole()
        size, wanted = volume.voxel_size, card.voxel_size
        if not self.resample or size is None or wanted is None or size == wanted:
            return OpenedInput(volume, raw, raw, size)
        return OpenedInput(volume, raw, resampled(raw, size, wanted), wanted)


def refuse_other_scale(volume: Volume, card: ModelCard) -> None:
    """Raises :class:`ModelFileError` where the voxels are too unlike those that the model was trained on."""
    size, trained = volume.voxel_size, card.voxel_size
    if size is None or trained is None:
        return
    if max(max(a / b, b / a) for a, b in zip(size, trained, strict=True)) > MAX_SCALE_RATIO:
        message = (
            f"its voxels of {sizes(size)} µm (z, y, x) are too unlike those of {sizes(trained)} µm that the model was "
            "trained on."
        )
        remedy = "Have the image resampled, or, if its metadata are wrong, give its true voxel size."
        raise ModelFileError(_problem("other-scale", volume, message, remedy))


def _problem(code: str, volume: Volume, message: str, remedy: str) -> Problem:
    return Problem(code, volume.where, message, remedy, settings=("resample", "data.voxel_size"))


def unknown_size(volume: Volume, card: ModelCard) -> list[Problem]:
    """A warning for an image that may not fit the model, since its voxel size is not known."""
    if volume.voxel_size is not None or card.voxel_size is None:
        return []
    message = (
        "does not tell the size of its voxels. It is taken to be that of the training images, "
        f"{sizes(card.spacing)} µm (z, y, x)."
    )
    remedy = "If it is another one, give the voxel size."
    return [Problem("no-voxel-size", volume.where, message, remedy, "warning")]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the results of one volume go."""

    folder: Path
    name: str
    file_format: Literal["tiff", "zarr"]

    def path(self, suffix: str = "") -> Path:
        return self.folder / f"{self.name}{suffix}{_ENDINGS[self.file_format]}"


def plan_targets(
    volumes: Sequence[Volume], output: Path, file_format: FileFormat, suffixes: Sequence[str]
) -> list[Target]:
    """Where the results go; ``output`` is made. Raises :class:`DataError` where results would meet each other or
    replace files that are not ours.

    ``suffixes`` are those of the files of each volume besides its labels.
    """
    refusal = ""
    if kind_of(output) not in (None, "folder"):
        refusal = "is a file."
    elif output.resolve() in {
        folder for volume in volumes if volume.path for folder in (volume.path.resolve().parent, volume.path.resolve())
    }:
        refusal = "holds the images themselves."
    if refusal:
        remedy = "Give another folder for the results."
        raise DataError(Problem("bad-output", str(output), refusal, remedy, settings=("output",)))
    targets: list[Target] = []
    taken: dict[str, Volume] = {}
    for volume in volumes:
        as_zarr = file_format == "zarr" or (file_format == "auto" and volume.path is not None and is_zarr(volume.path))
        target = Target(output, volume.name, "zarr" if as_zarr else "tiff")
        for path in map(target.path, ("", *suffixes)):
            other = taken.setdefault(path.name.casefold(), volume)  # some disks take a.tif and A.tif for one
            if other is not volume:
                raise DataError(
                    f"The results of {other.where} and {volume.where} would both be written to {path.name}. "
                    "Segment them into separate folders."
                )
            if as_zarr:
                refuse_foreign(path)
        targets.append(target)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {output} cannot be made: {error.strerror}.") from error
    remove_leftovers(output)
    return targets


def probability_suffixes(card: ModelCard) -> list[str]:
    """The endings of the names of files of probabilities, one for each output of the network."""
    if card.target == "objects":
        return ["_probability", *(f"_{name}" for name in OBJECT_MAPS[1:])]
    if card.network.out_channels == 1:
        return ["_probability"]
    return [f"_probability_class{value}" for value in card.class_values]


def write_result(
    target: Target,
    suffix: str,
    array: LazyArray,
    voxel_size: Spacing | None,
    partial: tuple[Path, Checklist] | None = None,
) -> Iterator[tuple[int, int]]:
    """Write one file, read piece by piece from ``array``; gives (done, total) on the way.

    ``partial``: where an OME-Zarr grows until it is complete, and which of its blocks are done already. Raises
    :class:`DataError` where it cannot be written.
    """
    path = target.path(suffix)
    if target.file_format == "tiff":
        write_planes(path, _planes(array), zyx(array.shape), np.dtype(array.dtype), voxel_size)
        return
    kind: Literal["image", "labels"] = "image" if suffix else "labels"
    growing, checklist = partial or (temporary(path), None)
    name = f"{target.name}{suffix}"
    try:
        yield from write_ome_zarr(growing, array, voxel_size, kind=kind, name=name, checklist=checklist)
        replace_folder(growing, path)
    finally:
        if partial is None:
            shutil.rmtree(growing, ignore_errors=True)


def _planes(array: LazyArray) -> Iterator[NDArray[Any]]:
    depth, height, width = zyx(array.shape)
    at_once = CHUNK[0]
    while at_once > 1 and at_once * height * width * np.dtype(array.dtype).itemsize > _BYTES_AT_ONCE:
        at_once //= 2  # so that no group of planes reaches into two chunks
    for first in range(0, depth, at_once):
        yield from np.asarray(array[first : first + at_once, 0:height, 0:width])
