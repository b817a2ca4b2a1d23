"""A patch size that suits the data: cubic in micrometres, a multiple of what the network divides by, affordable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_celltrain.config import ZYX, Spacing

TARGET_VOXELS = 64**3
"""Voxels of a suggested patch: on a processor a step then takes a fraction of a second, on a GPU memory is never
short."""
MAX_STRETCH = 1.5
"""A patch takes in all of the coarsest axis where that makes it at most this much longer."""


@dataclass(frozen=True, slots=True)
class PatchSuggestion:
    patch_size: ZYX
    reason: str


def suggest_patch_size(shapes: Sequence[ZYX], voxel_size: Spacing | None, divisor: ZYX) -> PatchSuggestion:
    """Suggest a patch size for volumes of these shapes (Z, Y, X) and this voxel size in µm.

    The patch covers about as many micrometres along each axis, holds about ``TARGET_VOXELS`` voxels, and is no
    larger than the median volume rounded up to the divisor. Where a volume is thin along an axis, the voxels saved
    there widen the others.
    """
    spacing = np.array(voxel_size or (1.0, 1.0, 1.0))
    median = np.median(np.array(shapes, float), axis=0)
    step = np.array(divisor)
    ceiling = np.maximum(step, np.ceil(median / step) * step)
    side = _widest(spacing, ceiling)
    size = np.maximum(step, np.round(side / step) * step)
    coarse = int(np.argmax(spacing))
    if (
        spacing[coarse] > np.delete(spacing, coarse).max()
        and size[coarse] < ceiling[coarse] <= MAX_STRETCH * size[coarse]
    ):
        size[coarse] = ceiling[coarse]  # one window over a whole short axis is cheaper than two that overlap
    size = np.maximum(8, np.minimum(size, ceiling))
    patch: ZYX = (int(size[0]), int(size[1]), int(size[2]))
    return PatchSuggestion(patch, _reason(patch, median, voxel_size, divisor))


def _widest(spacing: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """Sides (voxels) of the box that is cubic in micrometres, within ``ceiling``, with ``TARGET_VOXELS`` voxels."""
    fixed = np.zeros(3, bool)
    side = ceiling.copy()
    for _ in range(3):
        if fixed.all():
            break
        free = ~fixed
        room = TARGET_VOXELS / np.prod(side[fixed]) if fixed.any() else float(TARGET_VOXELS)
        length = (room * np.prod(spacing[free])) ** (1 / free.sum())
        side[free] = length / spacing[free]
        over = free & (side > ceiling)
        side[over] = ceiling[over]
        if not over.any():
            break
        fixed |= over
    return side


def _reason(patch: ZYX, median: np.ndarray, voxel_size: Spacing | None, divisor: ZYX) -> str:
    volumes = " × ".join(str(int(size)) for size in median)
    text = f"the volumes have about {volumes} voxels, and the network divides by {' × '.join(map(str, divisor))}"
    if any(n > m for n, m in zip(patch, median, strict=True)):
        text += "; volumes smaller than a patch are continued by their mirror image"
    if voxel_size is not None:
        extent = " × ".join(f"{n * s:.3g}" for n, s in zip(patch, voxel_size, strict=True))
        text += f"; a patch then covers {extent} µm"
    return text
