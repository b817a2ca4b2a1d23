"""Measuring the objects of files, into one table."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from napari_celltrain.data.measure import Columns, measuring
from napari_celltrain.data.pairs import pair_files
from napari_celltrain.evaluate.evaluation import Step
from napari_celltrain.io.axes import SeveralChannelsError
from napari_celltrain.io.volume import Volume
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError, Problem, raise_problems
from napari_celltrain.values.files import write_table
from napari_celltrain.values.text import sizes


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
) -> Generator[Step, None, Measured]:
    """Write a table with a row for each object of each volume of ``labels`` (a file or folder), named in the first
    column. ``image`` is a file or folder that is paired with the labels by name. The steps count the objects of each
    volume. Raises :class:`DataError`.
    """
    if output.suffix.lower() != ".csv":
        remedy = "Give a name that ends in .csv."
        raise DataError(Problem("not-csv", str(output), "the table is written as CSV.", remedy, settings=("output",)))
    pairs, problems = _pairs(labels, image)
    tables: list[tuple[str, Columns]] = []
    for labels_file, image_file in pairs:
        volume = open_labels(labels_file, axes=axes, voxel_size=voxel_size)
        channels = [] if image_file is None else _open_channels(image_file, axes, voxel_size)
        size = volume.voxel_size or next((channel.voxel_size for channel in channels), None)
        if size is None:
            message = "The file does not tell the size of a voxel, so its lengths are in voxels."
            advice = "Give the voxel size."
            settings = ("data.voxel_size",)
            problems.append(Problem("no-voxel-size", volume.where, message, advice, "warning", settings))
        columns = yield from _measure(volume, channels, size)
        tables.append((volume.name, columns))
    header = list(dict.fromkeys(title for _, columns in tables for title in columns))
    rows = (
        [name, *(columns[title][row] if title in columns else None for title in header)]
        for name, columns in tables
        for row in range(len(columns["label"]))
    )
    write_table(output, ["volume", *header], rows)
    return Measured(len(tables), sum(len(columns["label"]) for _, columns in tables), tuple(problems))


def _pairs(labels: Path, image: Path | None) -> tuple[list[tuple[Path, Path | None]], list[Problem]]:
    if image is None:
        return [(path, None) for path in find_volumes(labels)], []
    found = pair_files(image, labels)
    raise_problems(found.problems, DataError, "Images and labels do not pair up:")
    return [(pair.labels, pair.image) for pair in found.pairs], list(found.problems)


def _open_channels(path: Path, axes: str | None, voxel_size: Spacing | None) -> list[Volume]:
    """Every channel as a volume of its own."""
    try:
        return [open_volume(path, axes=axes, voxel_size=voxel_size)]
    except SeveralChannelsError as error:
        count = error.num_channels
    return [open_volume(path, axes=axes, channel=index, voxel_size=voxel_size) for index in range(count)]


def _measure(labels: Volume, channels: list[Volume], size: Spacing | None) -> Generator[Step, None, Columns]:
    for channel in channels:
        if channel.shape != labels.shape:
            message = f"has {sizes(channel.shape)} voxels, but its labels {labels.where} {sizes(labels.shape)}."
            remedy = "Give the image that these labels were made of."
            raise DataError(Problem("shape-mismatch", channel.where, message, remedy))
    steps = measuring(labels.lazy_or_whole(), [channel.lazy_or_whole() for channel in channels], size)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            columns: Columns = end.value
            return columns
        except DataError as error:
            raise DataError(*(replace(found, where=found.where or labels.where) for found in error.problems)) from error
        yield done, total, labels.name
