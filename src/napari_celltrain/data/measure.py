"""What can be measured of every object: position, size, shape and intensity.

Names and values are those of scikit-image's ``regionprops`` (solidity is nearly so, see :func:`_solidity`), but a
hundred thousand voxels take milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.objects import find_objects, refuse_other_shape
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values.config import Spacing

Columns = dict[str, NDArray[Any]]

_AXES = tuple(enumerate("zyx"))
_LENGTHS = ("equivalent_diameter", "axis_major_length", "axis_middle_length", "axis_minor_length")
_SHAPE = (*_LENGTHS, "elongation", "flatness", "extent", "solidity", "surface_area", "sphericity")
_INTENSITIES = ("mean", "min", "max", "std", "sum")


def measuring(
    labels_ZYX: LazyArray, channels_ZYX: Sequence[LazyArray] = (), voxel_size: Spacing | None = None
) -> Generator[tuple[int, int], None, Columns]:
    """One row for each object, as columns of equal length; the first is ``label`` (int64, ascending).

    Yields (objects done, all objects) and returns the columns. Lengths are in µm where ``voxel_size`` is given, else in
    voxels, and the names of the columns say which. What cannot be measured, such as the elongation of a single voxel,
    is NaN. Label values of 0 and below are background. Only the bounding box of one object is read at a time, so lazy
    arrays may be larger than memory. Raises ``ValueError`` where a channel and the labels differ in shape.
    """
    for channel in channels_ZYX:
        refuse_other_shape(channel, labels_ZYX)
    table = find_objects(labels_ZYX)
    numbers = table.labels.view(np.uint64)  # as they are in the file, also from 2⁶³ on
    shapes = np.zeros((len(table), len(_SHAPE)))
    intensities = np.zeros((len(table), len(channels_ZYX), len(_INTENSITIES)))
    for index in range(len(table)):
        yield index, len(table)
        box = tuple(map(slice, table.starts[index].tolist(), table.stops[index].tolist()))
        mask = np.asarray(labels_ZYX[box]) == numbers[index]
        shapes[index] = _measure_shape(mask, voxel_size or (1.0, 1.0, 1.0))
        for number, channel in enumerate(channels_ZYX):
            values = np.asarray(channel[box])[mask]
            # as in regionprops, the standard deviation is that of the voxels (divided by their number)
            mean, std, total = (measure(values, dtype=np.float64) for measure in (np.mean, np.std, np.sum))
            intensities[index, number] = mean, values.min(), values.max(), std, total
    yield len(table), len(table)
    columns: Columns = {"label": numbers if (table.labels < 0).any() else table.labels}
    # in µm as napari places voxels, the middle of the first one at 0
    if voxel_size is not None:
        columns |= {f"centroid_{letter}_um": table.centres[:, axis] * voxel_size[axis] for axis, letter in _AXES}
    columns |= {f"centroid_{letter}_voxels": table.centres[:, axis] for axis, letter in _AXES}
    for axis, letter in _AXES:
        columns |= {f"box_{letter}_start": table.starts[:, axis], f"box_{letter}_stop": table.stops[:, axis]}
    columns["touches_border"] = ((table.starts == 0) | (table.stops == np.array(labels_ZYX.shape))).any(axis=1)
    if voxel_size is not None:
        columns["volume_um3"] = table.sizes * math.prod(voxel_size)
    columns["volume_voxels"] = table.sizes
    unit = "um" if voxel_size else "voxels"
    units = dict.fromkeys(_LENGTHS, f"_{unit}") | {"surface_area": f"_{unit}2"}
    columns |= {f"{name}{units.get(name, '')}": shapes[:, place] for place, name in enumerate(_SHAPE)}
    for number in range(len(channels_ZYX)):
        suffix = "" if len(channels_ZYX) == 1 else f"_{number}"
        for place, name in enumerate(_INTENSITIES):
            columns[f"intensity_{name}{suffix}"] = intensities[:, number, place]
    return columns


def _measure_shape(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, ...]:
    """The values of ``_SHAPE``; ``mask`` fills its array from side to side. Lengths are in the units of the spacing.

    Axes are the full lengths of the ellipsoid with the same second moments; elongation and flatness are the ratios of
    the longest to the middle and of the middle to the shortest one. Sphericity is the surface of the ball of the same
    volume by that of the object, at most 1 (Wadell 1935); surfaces are those of marching cubes (Lewiner 2003).
    """
    from skimage.measure import marching_cubes, mesh_surface_area

    positions = np.stack(np.nonzero(mask)) * np.array(spacing)[:, None]
    variances = np.linalg.eigvalsh(np.cov(positions, bias=True))
    noise = 1e-9 * max(variances[-1], 0.0)  # rounding may leave a flat object some thickness
    # the semi-axes of a solid ellipsoid are the roots of five times the variances along them
    minor, middle, major = (2 * math.sqrt(5 * value) if value > noise else 0.0 for value in variances)
    # through the middle between object and background: area and volume within belong together, as corners are cut off
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing)
    area = float(mesh_surface_area(vertices, faces))
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    num_voxels = positions.shape[1]
    ratios = ((major, middle), (middle, minor), (math.pi ** (1 / 3) * (6 * volume) ** (2 / 3), area))
    elongation, flatness, sphericity = (one / other if other > 0 else math.nan for one, other in ratios)
    diameter = (6 * num_voxels * math.prod(spacing) / math.pi) ** (1 / 3)
    lengths = (diameter, major, middle, minor)
    return (*lengths, elongation, flatness, num_voxels / mask.size, _solidity(mask), area, sphericity)


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
