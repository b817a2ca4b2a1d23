"""A patch size that suits the data: cubic in micrometres, a multiple of what the network divides by, affordable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_celltrain.config import ZYX, Spacing

TARGET_VOXELS = 64**3
"""Voxels of a suggested patch: on a processor a step then takes a fraction of a second."""
MAX_VOXELS = 4 * TARGET_VOXELS
"""Large objects may ask for as many."""
MAX_STRETCH = 1.5
"""A patch takes in all of the coarsest axis where that makes it at most this much longer."""
OBJECTS_PER_SIDE = 2.0
"""A patch should be so many typical objects long: then it shows whole ones with their surroundings."""
MEMORY_SHARE = 0.5
"""Of the free memory for a training step; the rest is for the volumes, the validation and other programs."""


@dataclass(frozen=True, slots=True)
class PatchSuggestion:
    patch_size: ZYX
    reason: str


def affordable_voxels(free_bytes: int, batch_size: int, bytes_per_voxel: float) -> int:
    """How many voxels a patch may have where a batch holds ``batch_size`` of them and each voxel takes so much."""
    return int(MEMORY_SHARE * free_bytes / (bytes_per_voxel * batch_size))


def suggest_patch_size(
    shapes: Sequence[ZYX],
    voxel_size: Spacing | None,
    divisor: ZYX,
    object_extent: Spacing | None = None,
    max_voxels: int | None = None,
) -> PatchSuggestion:
    """Suggest a patch size for volumes of these shapes (Z, Y, X) and this voxel size in µm.

    The patch covers about as many micrometres along each axis, holds about ``TARGET_VOXELS`` voxels, and is no
    larger than the median volume rounded up to the divisor. Where a volume is thin along an axis, the voxels saved
    there widen the others. Where typical objects, of ``object_extent`` voxels along Z, Y and X, are too large for it,
    it holds up to ``MAX_VOXELS``; where memory is short, no more than ``max_voxels``.
    """
    spacing = np.array(voxel_size or (1.0, 1.0, 1.0))
    median = np.median(np.array(shapes, float), axis=0)
    step = np.array(divisor)
    ceiling = np.maximum(step, np.ceil(median / step) * step)
    wanted = _wanted_voxels(spacing, ceiling, object_extent)
    target = min(wanted, max_voxels) if max_voxels is not None else wanted
    size = np.maximum(step, np.round(_widest(spacing, ceiling, target) / step) * step)
    coarse = int(np.argmax(spacing))
    if (
        spacing[coarse] > np.delete(spacing, coarse).max()
        and size[coarse] < ceiling[coarse] <= MAX_STRETCH * size[coarse]
        and target == wanted
    ):
        size[coarse] = ceiling[coarse]  # one window over a whole short axis is cheaper than two that overlap
    size = np.maximum(8, np.minimum(size, ceiling))
    patch: ZYX = (int(size[0]), int(size[1]), int(size[2]))
    reason = _reason(patch, median, voxel_size, divisor)
    if target < wanted:
        return PatchSuggestion(patch, f"{reason}; the free memory allows no larger ones")
    if wanted > TARGET_VOXELS:
        return PatchSuggestion(patch, f"{reason}; it is larger than usual, as objects are large")
    return PatchSuggestion(patch, reason)


def _wanted_voxels(spacing: np.ndarray, ceiling: np.ndarray, object_extent: Spacing | None) -> float:
    """``TARGET_VOXELS``, or more where objects need more; a side as long as the volume is long enough for anything."""
    if object_extent is None:
        return TARGET_VOXELS
    needed = np.minimum(OBJECTS_PER_SIDE * np.array(object_extent), ceiling)
    wanted = float(TARGET_VOXELS)
    while wanted < MAX_VOXELS and (_widest(spacing, ceiling, wanted) < 0.99 * needed).any():
        wanted *= 1.1
    return min(wanted, float(MAX_VOXELS))


def _widest(spacing: np.ndarray, ceiling: np.ndarray, num_voxels: float) -> np.ndarray:
    """Sides (voxels) of the box that is cubic in micrometres, within ``ceiling``, with ``num_voxels`` voxels."""
    fixed = np.zeros(3, bool)
    side = ceiling.copy()
    for _ in range(3):
        if fixed.all():
            break
        free = ~fixed
        room = num_voxels / np.prod(side[fixed]) if fixed.any() else float(num_voxels)
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
