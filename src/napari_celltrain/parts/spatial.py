"""What the shape of a voxel means for networks and augmentations.

One rule for all of it: an axis is coarse when its spacing is more than 1.5 times that of the finest axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from napari_celltrain.config import ZYX, Spacing

ANISOTROPY_LIMIT = 1.5
"""Up to this ratio, spacings count as equal."""

CUBIC: Spacing = (1.0, 1.0, 1.0)

# Voxel sizes come from files as decimal fractions: 1.2 / 0.8 must not count as more than 1.5.
_TOLERANCE = 1e-4


def coarse_axes(spacing: Spacing) -> tuple[bool, bool, bool]:
    """Which of z, y and x are coarser than the finest axis by more than the limit."""
    limit = ANISOTROPY_LIMIT * min(spacing) * (1 + _TOLERANCE)
    z, y, x = (size > limit for size in spacing)
    return z, y, x


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
    z = y = x = 1
    for stride in strides:
        z, y, x = z * stride[0], y * stride[1], x * stride[2]
    return z, y, x
