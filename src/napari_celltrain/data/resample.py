"""A volume seen at another voxel size, and the way back for what was found in it.

Both grids cover the same space: voxel ``i`` of ``n`` spans from ``i / n`` to ``(i + 1) / n`` of the volume, so going
there and back shifts nothing by a fraction of a voxel. Values are weighted sums along one axis after the other, of
the few planes, rows and columns around each new voxel: what is read, and the memory, do not grow with the volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import SLAB_VOXELS, LazyArray, three_slices, voxels_in
from napari_celltrain.values.config import ZYX, Spacing

_TAIL = 3.0
"""How many sigmas of the Gaussian count."""


def resampled(image: LazyArray, from_spacing: Spacing, to_spacing: Spacing) -> LazyArray:
    """``image`` (Z, Y, X), whose voxels are ``from_spacing`` µm large, as a view with voxels of ``to_spacing`` µm.

    The view is indexed by slices (with a step, too) and reads no more of ``image`` than they need. Interpolation is
    linear; along axes that shrink a Gaussian with a sigma of (factor - 1) / 2 old voxels goes before it, against
    aliasing (the rule of scikit-image's ``resize``). Values are float32 (float64 for integers of 32 bits and more and
    for float64). The number of voxels is rounded, so that the true spacing differs from ``to_spacing`` by up to half a
    voxel over the whole length.
    """
    return Resampled(image, resampled_shape(image.shape, from_spacing, to_spacing))


def resampled_shape(shape: tuple[int, ...], from_spacing: Spacing, to_spacing: Spacing) -> ZYX:
    """How many voxels :func:`resampled` gives along z, y and x: at least one."""
    spacings = zip(shape, from_spacing, to_spacing, strict=True)
    return zyx(max(1, round(length * before / after)) for length, before, after in spacings)


def labels_back(labels: LazyArray, shape: ZYX, planes: slice = slice(None)) -> NDArray[Any]:
    """``labels`` found in the view, in the grid of ``shape`` (Z, Y, X) that it was made from: the nearest voxel's.

    ``planes`` asks for some z planes of that grid only; only what these need is read of ``labels``. Where the old
    grid is the coarser one, objects smaller than its voxels may fall between them and vanish.
    """
    z, y, x = (_nearest(length, old) for length, old in zip(shape, labels.shape, strict=True))
    rows = z[planes]
    if not len(rows):
        return np.zeros((0, *shape[1:]), labels.dtype)
    first = int(rows.min())
    slab = np.asarray(labels[first : int(rows.max()) + 1, :, :])
    return np.ascontiguousarray(slab[rows - first][:, y][:, :, x])


def maps_back(maps: LazyArray, shape: ZYX) -> LazyArray:
    """A map (Z, Y, X) of probabilities or distances of the view, in the grid of ``shape``: interpolated linearly."""
    return Resampled(maps, shape)


def _nearest(length: int, old: int) -> NDArray[np.intp]:
    """The old voxel in which the middle of each new one lies (whole numbers: no rounding can go astray)."""
    return ((2 * np.arange(length, dtype=np.intp) + 1) * old) // (2 * length)


@dataclass(frozen=True, slots=True)
class _Taps:
    """New voxel ``j`` is the sum of old voxels ``index[j]`` times ``weight[j]``; both are (new length, taps)."""

    index: NDArray[np.intp]
    weight: NDArray[np.float64]


class Resampled:
    """``source`` (Z, Y, X) seen with ``shape`` voxels over the same space; see :func:`resampled`."""

    ndim = 3

    def __init__(self, source: LazyArray, shape: ZYX) -> None:
        self.shape: tuple[int, ...] = shape
        exact = source.dtype.kind == "b" or np.can_cast(source.dtype, np.float32, "safe")
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if exact else np.float64)
        self._source = source
        self._taps = [_taps(new, int(old)) for new, old in zip(shape, source.shape, strict=True)]

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        wanted = [np.arange(length)[part] for length, part in zip(self.shape, three_slices(key), strict=True)]
        result = np.empty(tuple(len(axis) for axis in wanted), self.dtype)
        if not result.size:
            return result
        rows, columns = (_local(self._taps[axis], wanted[axis]) for axis in (1, 2))
        for group in self._groups(wanted):
            self._fill(result[group], wanted[0][group], rows, columns)
        return result

    def _groups(self, wanted: list[NDArray[np.intp]]) -> list[slice]:
        """Some of the wanted planes at a time, such that the old ones below them are not too many."""
        at_once = max(1, SLAB_VOXELS // max(1, voxels_in(self._source.shape[1:])))
        index = self._taps[0].index
        groups, start = [], 0
        for end in range(1, len(wanted[0]) + 1):
            planes = index[wanted[0][start : end + 1]]
            if end == len(wanted[0]) or planes.max() - planes.min() + 1 > at_once:
                groups.append(slice(start, end))
                start = end
        return groups

    def _fill(
        self, out: NDArray[Any], planes: NDArray[np.intp], rows: tuple[slice, _Taps], columns: tuple[slice, _Taps]
    ) -> None:
        """Set ``out`` to the wanted planes."""
        span, local = _local(self._taps[0], planes)
        block = np.asarray(self._source[span, rows[0], columns[0]]).astype(self.dtype, copy=False)
        for axis, taps in enumerate((local, rows[1], columns[1])):
            block = _weigh(block, taps, axis)
        out[:] = block


def _taps(new: int, old: int) -> _Taps:
    """The weights of linear interpolation, each old voxel being blurred by a Gaussian first where ``new < old``."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    below = np.floor(position).astype(np.intp)
    part = position - below
    sigma = max(0.0, (old / new - 1) / 2)
    reach = int(np.ceil(_TAIL * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-9)) ** 2)
    kernel /= kernel.sum()
    weight = np.zeros((new, 2 * reach + 2))
    weight[:, :-1] += (1 - part)[:, None] * kernel
    weight[:, 1:] += part[:, None] * kernel
    index = below[:, None] + np.arange(-reach, reach + 2)
    return _Taps(np.clip(index, 0, old - 1), weight)  # the outermost voxel goes on beyond the border


def _local(taps: _Taps, wanted: NDArray[np.intp]) -> tuple[slice, _Taps]:
    """The old voxels that ``wanted`` need, and the taps count from the first of these."""
    index = taps.index[wanted]
    first = int(index.min())
    return slice(first, int(index.max()) + 1), _Taps(index - first, taps.weight[wanted])


def _weigh(block: NDArray[Any], taps: _Taps, axis: int) -> NDArray[Any]:
    """The weighted sums along ``axis``."""
    length = taps.index.shape[0]
    if length == block.shape[axis] and taps.index.shape[1] == 2 and not taps.weight[:, 1].any():
        return block  # this axis stays as it is
    across = tuple(length if axis == other else 1 for other in range(3))
    shape = tuple(length if axis == other else block.shape[other] for other in range(3))
    total = np.zeros(shape, block.dtype)
    for tap in range(taps.index.shape[1]):
        weight = taps.weight[:, tap].astype(block.dtype).reshape(across)
        total += block.take(taps.index[:, tap], axis=axis) * weight
    return total
