"""Intensities on one scale: measured once per volume, then applied to each patch of it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_celltrain.data.check_rules import EXTREME_REMEDY, extreme_reason, inliers, usual_range
from napari_celltrain.io.volume import MAX_SAMPLED_VOXELS, LazyArray, sample_voxels
from napari_celltrain.values.config import Frozen
from napari_celltrain.values.errors import DataError

NormalizationKind = Literal["percentile", "zscore"]

LIMITS: dict[NormalizationKind, float] = {"percentile": 12.0, "zscore": 100.0}
"""Normalized intensities further from 0 than this are compressed. The brightest nuclei of BBBC050 reach 11 and 68. A
hot voxel can reach millions; the network's own normalization over its window would not survive that."""


class IntensityStatistics(Frozen):
    """A volume's intensities become (value − offset) / scale."""

    kind: NormalizationKind
    """How offset and scale were measured."""
    offset: float = Field(allow_inf_nan=False)
    """The intensity that becomes 0."""
    scale: float = Field(gt=0.0, allow_inf_nan=False)
    """The difference in intensity that becomes 1."""
    limit: float | None = Field(default=None, gt=0.0)
    """Beyond ± this, normalized values grow as a logarithm. None: they are left alone, as by version 0.1.0."""


def measure(
    volume_ZYX: LazyArray,
    kind: NormalizationKind,
    *,
    limit_outliers: bool = True,
    name: str = "The image",
    max_voxels: int = MAX_SAMPLED_VOXELS,
) -> IntensityStatistics:
    """Offset and scale of a volume; equal volumes give equal results.

    With ``limit_outliers``, a few voxels far beyond the others change neither. ``name`` is what an error calls the
    volume. Raises `DataError` where values are not finite, or there are none.
    """
    if not all(volume_ZYX.shape):
        raise DataError(f"{name} holds no voxels. Leave it out.")
    sample = sample_voxels(volume_ZYX, max_voxels)
    if sample.dtype.kind == "f" and not np.isfinite(sample).all():
        raise DataError(
            f"{name} holds values that are not numbers (NaN or infinite). "
            "Replace them, for example by 0, and save it again."
        )
    lowest, highest = float(sample.min()), float(sample.max())
    reason = extreme_reason(lowest, highest)
    if reason is not None:
        raise DataError(f"{name} holds {reason}. {EXTREME_REMEDY}")
    limit = LIMITS[kind] if limit_outliers else None
    if lowest == highest:
        return IntensityStatistics(kind=kind, offset=lowest, scale=1.0, limit=limit)
    if kind == "zscore":
        sample = inliers(sample) if limit_outliers else sample.ravel()
        mean, std = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        return IntensityStatistics(kind=kind, offset=mean, scale=std, limit=limit)
    low, high = usual_range(sample, robust=limit_outliers)
    return IntensityStatistics(kind=kind, offset=low, scale=high - low, limit=limit)


def normalize(patch: NDArray[Any], statistics: IntensityStatistics) -> NDArray[np.float32]:
    """(patch − offset) / scale as a new contiguous float32 array, compressed beyond the limit.

    Values of up to 24 bits are exact in float32; wider ones are subtracted in float64, so that small differences on
    a large offset survive.
    """
    out = np.empty(patch.shape, np.float32)
    arithmetic = np.float32 if np.can_cast(patch.dtype, np.float32, "safe") else np.float64
    with np.errstate(over="ignore"):  # beyond the limit
        # The conversion happens inside the subtraction, some thousand voxels at a time.
        np.subtract(patch, arithmetic(statistics.offset), out=out, dtype=arithmetic, casting="unsafe")
        out /= np.float32(statistics.scale)
    limit = statistics.limit
    if limit is not None and max(out.max(initial=0), -out.min(initial=0)) > limit:
        outlying = np.abs(out) > limit
        values = out[outlying]
        # Clipped, structures that are that bright would be flat; so the brighter voxel stays the brighter one.
        beyond = np.minimum(np.abs(values) - limit, np.finfo(np.float32).max)
        out[outlying] = np.copysign(limit + np.log1p(beyond), values)
    return out
