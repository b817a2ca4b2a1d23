"""What follows from the shape of a voxel and the size of memory: strides, planes of augmentation, patch sizes.

One rule for all of it: an axis is coarse when its spacing is more than 1.5 times that of the finest axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from napari_celltrain.io.axes import zyx
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.text import sizes

ANISOTROPY_LIMIT = 1.5  # up to this ratio, spacings count as equal

CUBIC: Spacing = (1.0, 1.0, 1.0)

# Voxel sizes come from files as decimal fractions: 1.2 / 0.8 must not count as more than 1.5.
_TOLERANCE = 1e-4


def coarse_axes(spacing: Spacing) -> tuple[bool, bool, bool]:
    """Which of z, y and x are coarser than the finest axis by more than the limit."""
    limit = ANISOTROPY_LIMIT * min(spacing) * (1 + _TOLERANCE)
    return spacing[0] > limit, spacing[1] > limit, spacing[2] > limit


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a voxel, as augmentations need it."""

    spacing: Spacing
    """Size along z, y and x, relative to the finest axis."""
    plane: tuple[int, int] | None
    """The two axes that spatial augmentations are confined to; None where all three axes are alike."""

    @classmethod
    def of(cls, voxel_size: Spacing | None) -> Geometry:
        """The plane is that of the two most equal spacings; an unknown voxel counts as cubic."""
        if voxel_size is None:
            return cls(CUBIC, None)
        z, y, x = (size / min(voxel_size) for size in voxel_size)
        spacing = (z, y, x)
        if not any(coarse_axes(spacing)):
            return cls(spacing, None)

        def unevenness(pair: tuple[int, int]) -> float:
            first, second = (spacing[axis] for axis in pair)
            return max(first, second) / min(first, second)

        # (y, x) comes first: of equally uneven planes it is the one that was imaged at once.
        return cls(spacing, min(reversed(list(combinations(range(3), 2))), key=unevenness))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which spatial augmentations may move voxels."""
        return self.plane or (0, 1, 2)


def plan_strides(voxel_size: Spacing | None, num_levels: int) -> tuple[ZYX, ...]:
    """Downsampling factors of each level, so that voxels become cubic on the way down.

    At each level all axes are halved, but for those that are coarse at that level: (5, 1, 1) micrometres give
    (1, 2, 2), (1, 2, 2), (2, 2, 2), ... (the rule of nnU-Net, https://doi.org/10.1038/s41592-020-01008-z).
    """
    spacing = voxel_size or CUBIC
    strides: list[ZYX] = []
    for _ in range(num_levels):
        z, y, x = (1 if coarse else 2 for coarse in coarse_axes(spacing))
        strides.append((z, y, x))
        spacing = (spacing[0] * z, spacing[1] * y, spacing[2] * x)
    return tuple(strides)


def total_stride(strides: tuple[ZYX, ...]) -> ZYX:
    """Product of the strides along each axis: what a patch size must be a multiple of."""
    return zyx(np.prod([(1, 1, 1), *strides], axis=0))


NUM_LEVELS = {"unet": 4, "segresnet": 3, "dynunet": 4, "attention_unet": 3, "trailmap": 3}
"""How often these networks downsample, by :func:`plan_strides`."""


def network_divisor(model: str, voxel_size: Spacing | None) -> ZYX:
    """What patch sizes should be multiples of, known before the network is built; 16 for networks from elsewhere."""
    if model in NUM_LEVELS:
        return total_stride(plan_strides(voxel_size, NUM_LEVELS[model]))
    return (32, 32, 32) if model == "swinunetr" else (16, 16, 16)


# --- memory ----------------------------------------------------------------------------------------------

_SIZES = ("small", "medium", "large")

# Bytes in float32 from the forward to the backward pass, for the small, medium and large network, count on tensors
# without contents.
_KEPT = {
    "unet": (110, 180, 320),
    "segresnet": (470, 940, 1900),
    "dynunet": (430, 860, 1700),
    "attention_unet": (540, 1100, 2100),
    "vnet": (310, 590, 1100),
    "swinunetr": (3300, 4300, 6300),
    "trailmap": (880, 1800, 3500),
}
_UNKNOWN = (6300, 6300, 6300)  # a network from another package counts as the most demanding of ours
_WORKING_SHARE = 1.3  # what convolutions need beside what is kept


def bytes_per_voxel(model: str, size: str) -> float:
    """Of a patch, in a training step."""
    return _WORKING_SHARE * _KEPT.get(model, _UNKNOWN)[_SIZES.index(size)]


# --- patch size ------------------------------------------------------------------------------------------

TARGET_VOXELS = 64**3  # voxels of a suggested patch: on a processor a step then takes a fraction of a second
MAX_VOXELS = 4 * TARGET_VOXELS  # large objects may ask for as many
MAX_STRETCH = 1.5  # a patch takes in all of the coarsest axis where that makes it at most this much longer
OBJECTS_PER_SIDE = 2.0  # a patch should be so many typical objects long, to show whole ones with surroundings
MEMORY_SHARE = 0.5  # of the free memory for a training step; the rest is for volumes, validation and other programs


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
    patch = zyx(size)
    reason = f"the volumes have about {sizes(zyx(median))} voxels, and the network divides by {sizes(divisor)}"
    if (size > median).any():
        reason += "; volumes smaller than a patch are padded by reflection"
    if voxel_size is not None:
        reason += f"; a patch then covers {sizes(n * s for n, s in zip(patch, voxel_size, strict=True))} µm"
    if target < wanted:
        reason += "; the free memory allows no larger ones"
    elif wanted > TARGET_VOXELS:
        reason += "; it is larger than usual, as objects are large"
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
    side = ceiling.copy()
    free = np.ones(3, bool)
    while free.any():
        length = (num_voxels / np.prod(side[~free]) * np.prod(spacing[free])) ** (1 / free.sum())
        side[free] = length / spacing[free]
        over = free & (side > ceiling)
        if not over.any():
            break
        side[over] = ceiling[over]
        free &= ~over
    return side
