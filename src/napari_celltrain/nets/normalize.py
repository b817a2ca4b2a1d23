"""Intensities on one scale: measured once per volume, then applied to each patch of it."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_celltrain.data.check_rules import EXTREME_REMEDY, extreme_reason
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values.config import ZYX, Frozen
from napari_celltrain.values.errors import DataError

NormalizationKind = Literal["percentile", "zscore"]

PERCENTILES = (1.0, 99.8)
"""These become 0 and 1. The upper one is high as cells may fill little of a volume, and robust against hot pixels."""

MAX_VOXELS = 2**24
"""Larger volumes are measured on a regular grid of about so many voxels."""

_VOXELS_AT_ONCE = 2**22


class IntensityStatistics(Frozen):
    """A volume's intensities become (value − offset) / scale."""

    kind: NormalizationKind
    """How offset and scale were measured."""
    offset: float = Field(allow_inf_nan=False)
    """The intensity that becomes 0."""
    scale: float = Field(gt=0.0, allow_inf_nan=False)
    """The difference in intensity that becomes 1."""


def measure(
    volume_ZYX: LazyArray, kind: NormalizationKind, *, name: str = "The image", max_voxels: int = MAX_VOXELS
) -> IntensityStatistics:
    """Offset and scale of a volume; equal volumes give equal results.

    ``name`` is what an error calls the volume. Raises `DataError` where values are not finite, or there are none.
    """
    if not all(volume_ZYX.shape):
        raise DataError(f"{name} holds no voxels. Leave it out.")
    sample = _sample(volume_ZYX, max_voxels)
    if sample.dtype.kind == "f" and not np.isfinite(sample).all():
        raise DataError(
            f"{name} holds values that are not numbers (NaN or infinite). "
            "Replace them, for example by 0, and save it again."
        )
    lowest, highest = float(sample.min()), float(sample.max())
    reason = extreme_reason(lowest, highest)
    if reason is not None:
        raise DataError(f"{name} holds {reason}. {EXTREME_REMEDY}")
    if lowest == highest:
        return IntensityStatistics(kind=kind, offset=lowest, scale=1.0)
    if kind == "zscore":
        mean, std = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        return IntensityStatistics(kind=kind, offset=mean, scale=std)
    if sample.dtype.kind == "i":  # NumPy interpolates in the type itself, where differences may overflow
        sample = sample.astype(np.float32 if sample.dtype.itemsize <= 2 else np.float64)
    low, high = (float(value) for value in np.percentile(sample, PERCENTILES, overwrite_input=True))
    if high <= low:  # fewer than 0.2 % of the voxels differ from the rest: they are what there is to see
        low, high = lowest, highest
    return IntensityStatistics(kind=kind, offset=low, scale=high - low)


def normalize(patch: NDArray[Any], statistics: IntensityStatistics) -> NDArray[np.float32]:
    """(patch − offset) / scale as a new contiguous float32 array.

    Values of up to 24 bits are exact in float32; wider ones are subtracted in float64, so that small differences on
    a large offset survive.
    """
    out = np.empty(patch.shape, np.float32)
    arithmetic = np.float32 if np.can_cast(patch.dtype, np.float32, "safe") else np.float64
    # The conversion happens inside the subtraction, some thousand voxels at a time.
    np.subtract(patch, arithmetic(statistics.offset), out=out, dtype=arithmetic, casting="unsafe")
    out /= np.float32(statistics.scale)
    return out


def _sample(volume_ZYX: LazyArray, max_voxels: int) -> NDArray[Any]:
    """All voxels, or a regular grid of them, in a row; read in few slabs, as neighbouring ones share their chunks."""
    steps = _steps(volume_ZYX.shape, max_voxels)
    z, y, x = (slice(step // 2, None, step) for step in steps)
    planes = range(*z.indices(volume_ZYX.shape[0]))
    voxels_per_plane = math.prod(
        len(range(*part.indices(length))) for part, length in zip((y, x), volume_ZYX.shape[1:], strict=True)
    )
    at_once = max(1, _VOXELS_AT_ONCE // voxels_per_plane)
    slabs = [
        np.asarray(volume_ZYX[group.start : group.stop : group.step, y, x]).ravel()
        for group in (planes[first : first + at_once] for first in range(0, len(planes), at_once))
    ]
    sample = np.concatenate(slabs)
    return sample.astype(np.uint8) if sample.dtype == bool else sample


def _steps(shape: tuple[int, ...], max_voxels: int) -> ZYX:
    """Every how many voxels along z, y and x; always the axis with the most voxels left is thinned out first."""
    steps = [1, 1, 1]
    left = list(shape)
    while math.prod(left) > max_voxels:
        axis = left.index(max(left))
        steps[axis] += 1
        left[axis] = len(range(steps[axis] // 2, shape[axis], steps[axis]))
    return zyx(steps)
