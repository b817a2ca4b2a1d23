"""The loss of networks that learn objects: the chosen loss of the foreground, and what tells objects apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.data.object_target import DEPTHS
from napari_celltrain.parts.losses import SegmentationLoss

if TYPE_CHECKING:
    from torch import Tensor

DISTANCE_WEIGHT = 1.0
BOUNDARY_WEIGHT = 0.5
"""What the two weigh beside the loss of the foreground."""
BACKGROUND_WEIGHT = 0.1
"""What a voxel of the background weighs in them: there they have only to be low."""


class ObjectLoss:
    """Of logits (B, 3, Z, Y, X) – foreground, distance, boundary – against packed targets (B, Z, Y, X) in uint8.

    The sum of the chosen loss on the foreground, and the binary cross entropies of distance and boundary against what
    `data.object_target` has packed, averaged over the voxels that count, those of the objects foremost.
    """

    def __init__(self, foreground_loss: SegmentationLoss) -> None:
        self._foreground_loss = foreground_loss

    def __call__(self, logits_BCZYX: Tensor, target_BZYX: Tensor) -> Tensor:
        import torch

        ignored = target_BZYX == IGNORE
        has_ignored = bool(ignored.any())
        inside = (target_BZYX > 0) & ~ignored
        packed = torch.where(inside, target_BZYX - 1, 0)
        is_boundary = packed >= DEPTHS
        depth = torch.where(is_boundary, packed - DEPTHS, packed).float() / (DEPTHS - 1)
        foreground = torch.where(ignored, target_BZYX, inside.to(torch.uint8))
        loss = self._foreground_loss(logits_BCZYX[:, :1], foreground, has_ignored=has_ignored)
        weight = torch.where(inside, 1.0, BACKGROUND_WEIGHT)
        if has_ignored:
            weight = weight * ~ignored
        with torch.autocast(logits_BCZYX.device.type, enabled=False):
            logits = logits_BCZYX.float()
            distance = _cross_entropy(logits[:, 1], depth, weight)
            boundary = _cross_entropy(logits[:, 2], is_boundary.float(), weight)
        return loss + DISTANCE_WEIGHT * distance + BOUNDARY_WEIGHT * boundary


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    from torch.nn import functional

    total = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total / weight.sum().clamp(min=1.0)
