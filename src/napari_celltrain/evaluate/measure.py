"""Measuring the objects of files, into one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_celltrain.data.measure import Columns, Progress, measure_objects
from napari_celltrain.data.pairs import pair_files
from napari_celltrain.io.volume import LazyArray, Volume
from napari_celltrain.io.volumes import SeveralChannelsError, find_volumes, open_labels, open_volume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError, Problem, raise_problems
from napari_celltrain.values.files import write_table


@dataclass(frozen=True, slots=True)
class Measured:
    num_volumes: int
    num_objects: int
    problems: tuple[Problem, ...]
    """Warnings, such as of images without labels, and of volumes without a voxel size."""


def measure_files(
    labels: Path,
    output: Path,
    *,
    image: Path | None = None,
    axes: str | None = None,
    voxel_size: Spacing | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Measured:
    """Write a table with a row for each object of each volume of ``labels`` (a file or folder), named in the first
    column. ``image`` is a file or folder that is paired with the labels by name. ``progress`` is asked for a callback
    for each volume. Raises :class:`DataError`.
    """
    if output.suffix.lower() != ".csv":
        raise DataError(f"{output}: the table is written as CSV. Give a name that ends in .csv with --output.")
    pairs, problems = _pairs(labels, image)
    tables: list[tuple[str, Columns]] = []
    for labels_file, image_file in pairs:
        volume = open_labels(labels_file, axes=axes, voxel_size=voxel_size)
        channels = [] if image_file is None else _open_channels(image_file, axes, voxel_size)
        size = volume.voxel_size or next((channel.voxel_size for channel in channels), None)
        if size is None:
            problems.append(_unknown_size(volume))
        tell = None if progress is None else progress(volume.name)
        tables.append((volume.name, _measure(volume, channels, size, tell)))
    header = list(dict.fromkeys(title for _, columns in tables for title in columns))
    write_table(output, ["volume", *header], _rows(tables, header))
    return Measured(len(tables), sum(len(columns["label"]) for _, columns in tables), tuple(problems))


def _pairs(labels: Path, image: Path | None) -> tuple[list[tuple[Path, Path | None]], list[Problem]]:
    if image is None:
        return [(path, None) for path in find_volumes(labels)], []
    found = pair_files(image, labels)
    raise_problems(list(found.problems), DataError, "Images and labels do not pair up:")
    return [(pair.labels, pair.image) for pair in found.pairs], list(found.problems)


def _open_channels(path: Path, axes: str | None, voxel_size: Spacing | None) -> list[Volume]:
    """Every channel as a volume of its own."""
    try:
        return [open_volume(path, axes=axes, voxel_size=voxel_size)]
    except SeveralChannelsError as error:
        count = error.num_channels
    return [open_volume(path, axes=axes, channel=index, voxel_size=voxel_size) for index in range(count)]


def _measure(labels: Volume, channels: list[Volume], size: Spacing | None, progress: Progress | None) -> Columns:
    for channel in channels:
        if channel.shape != labels.shape:
            raise DataError(
                f"{channel.where}: has {_voxels(channel)} voxels, but its labels {labels.where} {_voxels(labels)}. "
                "Give the image that these labels were made of."
            )
    try:
        return measure_objects(_array(labels), [_array(channel) for channel in channels], size, progress=progress)
    except DataError as error:
        if labels.where in str(error):
            raise
        raise DataError(f"{labels.where}: {error}") from error


def _array(volume: Volume) -> LazyArray:
    lazy = volume.lazy()
    return volume.read() if lazy is None else lazy


def _voxels(volume: Volume) -> str:
    return " × ".join(map(str, volume.shape))


def _unknown_size(volume: Volume) -> Problem:
    message = "The file does not tell the size of a voxel, so its lengths are in voxels."
    return Problem("no-voxel-size", volume.where, message, "Give it with --voxel-size Z,Y,X.", "warning")


def _rows(tables: list[tuple[str, Columns]], header: list[str]) -> Iterator[list[object]]:
    for name, columns in tables:
        for row in range(len(columns["label"])):
            yield [name, *(columns[title][row] if title in columns else None for title in header)]
