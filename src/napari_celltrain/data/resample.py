"""A volume seen at another voxel size, and the way back for what was found in it.

Both grids cover the same space: voxel ``i`` of ``n`` spans from ``i / n`` to ``(i + 1) / n`` of the volume, so going
there and back shifts nothing by a fraction of a voxel. Values are weighted sums along one axis after the other, of
the few planes, rows and columns around each new voxel: what is read, and the memory, do not grow with the volume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

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
    spacings = zip(image.shape, from_spacing, to_spacing, strict=True)
    return Resampled(image, zyx(max(1, round(length * before / after)) for length, before, after in spacings))


def labels_back(labels: LazyArray, shape: ZYX, planes: slice = slice(None)) -> NDArray[Any]:
    """``labels`` found in the view, in the grid of ``shape`` (Z, Y, X) that it was made from: the nearest voxel's.

    ``planes`` asks for some z planes of that grid only; only what these need is read of ``labels``. Where the old
    grid is the coarser one, objects smaller than its voxels may fall between them and vanish.
    """
    # the old voxel in which the middle of each new one lies (whole numbers: no rounding can go astray)
    z, y, x = (
        ((2 * np.arange(length) + 1) * old) // (2 * length) for length, old in zip(shape, labels.shape, strict=True)
    )
    rows = z[planes]
    if not len(rows):
        return np.zeros((0, *shape[1:]), labels.dtype)
    first = int(rows.min())
    slab = np.asarray(labels[first : int(rows.max()) + 1, :, :])
    return np.ascontiguousarray(slab[rows - first][:, y][:, :, x])


class Resampled:
    """``source`` (Z, Y, X) seen with ``shape`` voxels over the same space; see :func:`resampled`.

    It is the way back for maps of probabilities or distances, too, which are interpolated linearly.
    """

    ndim = 3

    def __init__(self, source: LazyArray, shape: ZYX) -> None:
        self.shape: tuple[int, ...] = shape
        exact = source.dtype.kind == "b" or np.can_cast(source.dtype, np.float32, "safe")
        self.dtype: np.dtype[Any] = np.dtype(np.float32 if exact else np.float64)
        self._source = source
        self._weights = [_weights(new, int(old)) for new, old in zip(shape, source.shape, strict=True)]

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        z, y, x = (weights[part] for weights, part in zip(self._weights, three_slices(key), strict=True))
        result = np.empty((z.shape[0], y.shape[0], x.shape[0]), self.dtype)
        if not result.size:
            return result
        # some planes at a time, such that the old ones below them are not too many
        at_once = max(1, SLAB_VOXELS // max(1, voxels_in(self._source.shape[1:])))
        start = 0
        for end in range(1, len(result) + 1):
            if end == len(result) or np.ptp(z[start : end + 1].indices) + 1 > at_once:
                result[start:end] = self._weighted(z[start:end], y, x)
                start = end
        return result

    def _weighted(self, *weights: csr_array) -> NDArray[Any]:
        needed = tuple(slice(int(each.indices.min()), int(each.indices.max()) + 1) for each in weights)
        block = np.asarray(self._source[needed]).astype(self.dtype, copy=False)
        for axis, (each, span) in enumerate(zip(weights, needed, strict=True)):
            if each.nnz == each.shape[0] and np.array_equal(each.indices, np.arange(span.start, span.stop)):
                continue  # this axis stays as it is
            lines = np.moveaxis(block, axis, 0)
            sums = each[:, span].astype(self.dtype) @ lines.reshape(len(lines), -1)
            block = np.moveaxis(sums.reshape(-1, *lines.shape[1:]), 0, axis)
        return block


def _weights(new: int, old: int) -> csr_array:
    """The weight of each old voxel in each new one, (new, old): linear interpolation, the old voxels being blurred by a
    Gaussian first where ``new < old``."""
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
    # the outermost voxel goes on beyond the border
    index = np.clip(below[:, None] + np.arange(-reach, reach + 2), 0, old - 1)
    used = weight > 0
    rows = np.broadcast_to(np.arange(new)[:, None], index.shape)
    return coo_array((weight[used], (rows[used], index[used])), shape=(new, old)).tocsr()
