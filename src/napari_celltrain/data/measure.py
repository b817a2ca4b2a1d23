"""The shape of one object: axes, convexity, surface.

What can be measured of every object: position, size, shape and intensity.

Names and values are those of scikit-image's ``regionprops`` (solidity is nearly so, and why is told in
:mod:`napari_celltrain.data.measure`), but a hundred thousand voxels take milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.objects import ObjectTable, find_objects
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.events import finish


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths in the units of the spacing; NaN where something is not defined."""

    axes: tuple[float, float, float]
    """Full lengths of the axes of the ellipsoid with the same second moments, the longest first."""
    elongation: float
    """Longest axis by the middle one, at least 1."""
    flatness: float
    """Middle axis by the shortest one, at least 1."""
    solidity: float
    """Share of its convex hull that the object fills, at most 1."""
    surface_area: float
    sphericity: float
    """Surface of the ball of the same volume by that of the object, at most 1 (Wadell 1935)."""


def shape_of(mask_ZYX: NDArray[np.bool_], spacing: Spacing) -> Shape:
    """``mask_ZYX`` holds at least one voxel."""
    axes = _axes(mask_ZYX, spacing)
    area, volume = _surface(mask_ZYX, spacing)
    return Shape(
        axes=axes,
        elongation=_by(axes[0], axes[1]),
        flatness=_by(axes[1], axes[2]),
        solidity=_solidity(mask_ZYX),
        surface_area=area,
        sphericity=_by(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3), area),
    )


def _by(length: float, other: float) -> float:
    return length / other if other > 0 else math.nan


def _axes(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, float, float]:
    """The semi-axes of a solid ellipsoid are the roots of five times the variances along them."""
    positions = np.stack(np.nonzero(mask)).astype(np.float64)
    positions -= positions.mean(axis=1, keepdims=True)
    positions *= np.array(spacing)[:, None]
    variances = np.linalg.eigvalsh(positions @ positions.T / positions.shape[1])
    noise = 1e-9 * max(variances[-1], 0.0)  # rounding may leave a flat object some thickness
    minor, middle, major = (2 * math.sqrt(5 * value) if value > noise else 0.0 for value in variances)
    return major, middle, minor


def _solidity(mask: NDArray[np.bool_]) -> float:
    """Volume of the voxels by that of the convex hull of their corners: so it is 1 for a voxel and for a flat box.

    scikit-image counts the voxels in the hull instead, which takes a third of a second for an object of 30 voxels each
    way, minutes for one of 200, and gives no number for flat ones.
    """
    from scipy.spatial import ConvexHull

    corners = np.zeros(tuple(length + 1 for length in mask.shape), bool)
    for offset in np.ndindex(2, 2, 2):
        corners[tuple(slice(o, o + length) for o, length in zip(offset, mask.shape, strict=True))] |= mask
    # of each line along x, only the two ends can be corners of the hull
    z, y = np.nonzero(corners.any(axis=2))
    lines = corners[z, y]
    first = lines.argmax(axis=1)
    last = lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    points = np.concatenate([np.column_stack([z, y, first]), np.column_stack([z, y, last])])
    return float(np.count_nonzero(mask) / ConvexHull(points).volume)


def _surface(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, float]:
    """Area of the surface that marching cubes (Lewiner 2003) lay through the middle between object and background, and
    the volume within: taken together, since the corners of the voxels are cut off."""
    from skimage.measure import marching_cubes, mesh_surface_area

    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing)
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    return float(mesh_surface_area(vertices, faces)), volume


# --- measurement -----------------------------------------------------------------------------------------

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
    return finish(measuring(labels_ZYX, image_ZYX, voxel_size), lambda step: progress and progress(*step))


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
