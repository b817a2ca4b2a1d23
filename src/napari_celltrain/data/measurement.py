"""What can be measured of every object: position, size, shape and intensity.

Names and values are those of scikit-image's ``regionprops`` (solidity is nearly so, and why is told in
:mod:`napari_celltrain.data.shape`), but a hundred thousand voxels take milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import Spacing
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.overlaps import ObjectTable, find_objects
from napari_celltrain.data.shape import shape_of

Progress = Callable[[int, int], None]
"""Called with (objects done, all objects). It may raise, to end the measurement: the exception passes through."""

Columns = dict[str, NDArray[Any]]
Images = LazyArray | Sequence[LazyArray]


def measure_objects(
    labels_ZYX: LazyArray,
    image_ZYX: Images | None = None,
    voxel_size: Spacing | None = None,
    *,
    progress: Progress | None = None,
) -> Columns:
    """One row for each object, as columns of equal length; the first is ``label`` (int64, ascending).

    Several images (a list) are several channels. Lengths are in µm where ``voxel_size`` is given, else in voxels, and
    the names of the columns say which. What cannot be measured, such as the elongation of a single voxel, is NaN.
    Label values of 0 and below are background. Raises ``ValueError`` where image and labels differ in shape.
    """
    steps = measuring(labels_ZYX, image_ZYX, voxel_size)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as finished:
            columns: Columns = finished.value
            return columns
        if progress is not None:
            progress(done, total)


def measuring(
    labels_ZYX: LazyArray, image_ZYX: Images | None = None, voxel_size: Spacing | None = None
) -> Generator[tuple[int, int], None, Columns]:
    """As :func:`measure_objects`, as a generator of (objects done, all objects) that returns the columns.

    Only the bounding box of one object is read at a time, so lazy arrays may be larger than memory.
    """
    channels = _channels(image_ZYX)
    for channel in channels:
        if tuple(channel.shape) != tuple(labels_ZYX.shape):
            raise ValueError(f"shapes differ: {tuple(channel.shape)} and {tuple(labels_ZYX.shape)}")
    table = find_objects(labels_ZYX)
    rows: list[dict[str, float]] = []
    for index in range(len(table)):
        yield index, len(table)
        box = table.box(index)
        mask = np.asarray(labels_ZYX[box]) == table.labels[index]
        values = [np.asarray(channel[box])[mask] for channel in channels]
        rows.append(_measure(mask, voxel_size or (1.0, 1.0, 1.0)) | _intensities(values))
    yield len(table), len(table)
    columns = _positions(table, tuple(labels_ZYX.shape), voxel_size)
    for key in (*_shape_keys(), *_intensity_keys(len(channels))):
        columns[_titled(key, voxel_size)] = np.array([row[key] for row in rows], np.float64)
    return columns


def _channels(images: Images | None) -> list[LazyArray]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]  # one array


def _positions(table: ObjectTable, shape: tuple[int, ...], voxel_size: Spacing | None) -> Columns:
    """Where objects are; in µm as napari places voxels, the middle of the first one at 0."""
    columns: Columns = {"label": table.labels}
    for axis, letter in enumerate("zyx"):
        if voxel_size is not None:
            columns[f"centroid_{letter}_um"] = table.centres[:, axis] * voxel_size[axis]
    for axis, letter in enumerate("zyx"):
        columns[f"centroid_{letter}_voxels"] = table.centres[:, axis]
    for axis, letter in enumerate("zyx"):
        columns[f"box_{letter}_start"] = table.starts[:, axis]
        columns[f"box_{letter}_stop"] = table.stops[:, axis]
    columns["touches_border"] = ((table.starts == 0) | (table.stops == np.array(shape))).any(axis=1)
    if voxel_size is not None:
        columns["volume_um3"] = table.sizes * math.prod(voxel_size)
    columns["volume_voxels"] = table.sizes
    return columns


_LENGTHS = ("equivalent_diameter", "axis_major_length", "axis_middle_length", "axis_minor_length")
_INTENSITIES = ("mean", "min", "max", "std", "sum")


def _shape_keys() -> tuple[str, ...]:
    return (*_LENGTHS, "elongation", "flatness", "extent", "solidity", "surface_area", "sphericity")


def _intensity_keys(num_channels: int) -> list[str]:
    """``intensity_mean``, or with several channels ``intensity_mean_0`` and so on."""
    return [f"intensity_{name}{suffix}" for suffix in _suffixes(num_channels) for name in _INTENSITIES]


def _suffixes(num_channels: int) -> list[str]:
    return [""] if num_channels == 1 else [f"_{index}" for index in range(num_channels)]


def _titled(key: str, voxel_size: Spacing | None) -> str:
    if key in _LENGTHS:
        return f"{key}_{'um' if voxel_size else 'voxels'}"
    if key == "surface_area":
        return f"{key}_{'um2' if voxel_size else 'voxels2'}"
    return key


def _measure(mask: NDArray[np.bool_], spacing: Spacing) -> dict[str, float]:
    """``mask`` fills its array from side to side."""
    shape = shape_of(mask, spacing)
    num_voxels = np.count_nonzero(mask)
    return {
        "equivalent_diameter": (6 * num_voxels * math.prod(spacing) / math.pi) ** (1 / 3),
        "extent": num_voxels / mask.size,
        "axis_major_length": shape.axes[0],
        "axis_middle_length": shape.axes[1],
        "axis_minor_length": shape.axes[2],
        "elongation": shape.elongation,
        "flatness": shape.flatness,
        "solidity": shape.solidity,
        "surface_area": shape.surface_area,
        "sphericity": shape.sphericity,
    }


def _intensities(channels: Sequence[NDArray[Any]]) -> dict[str, float]:
    """As in ``regionprops``: the standard deviation is that of the voxels (divided by their number)."""
    found = {}
    for suffix, values in zip(_suffixes(len(channels)), channels, strict=False):
        measured = (values.mean(dtype=np.float64), values.min(), values.max(), values.std(dtype=np.float64))
        total = values.sum(dtype=np.float64)
        for name, value in zip(_INTENSITIES, (*measured, total), strict=True):
            found[f"intensity_{name}{suffix}"] = float(value)
    return found
