"""The loss functions to minimize: MONAI's, with ignored voxels left out, and that of networks that learn objects.

With one output the logits go through a sigmoid, with several (one per class, background first) through a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from napari_celltrain.data.labels import DEPTHS, IGNORE
from napari_celltrain.registry import Entry, Registry
from napari_celltrain.values.decoding import Target

if TYPE_CHECKING:
    from torch import Tensor

DISTANCE_WEIGHT = 1.0
BOUNDARY_WEIGHT = 0.5
"""Weights of the two beside the loss of the foreground."""
BACKGROUND_WEIGHT = 0.1
"""Weight of a background voxel in them: there they have only to be low."""


DenseLoss = Callable[["Tensor", "Tensor"], "Tensor"]
"""Of logits (B, C, ...) and target (B, 1, ...), over any number of further axes; the mean of the items' losses."""

LossBuilder = Callable[[int], DenseLoss]
"""Takes the number of outputs of the network."""

LOSSES: Registry[LossBuilder] = Registry("loss")


def segmentation_loss(
    dense_loss: DenseLoss, logits_BCZYX: Tensor, target_BZYX: Tensor, *, has_ignored: bool | None = None
) -> Tensor:
    """The loss of logits (B, C, Z, Y, X) against target (B, Z, Y, X) in uint8, as one number.

    It is the mean over the batch's items, each counting the same whatever part of it is ignored; items that are
    ignored altogether do not count. Without any item to count it is 0, with gradients of 0. Computed in float32, also
    under autocast. ``has_ignored``: whether the target holds any `IGNORE`; None looks, which on a GPU waits for the
    device.
    """
    import torch

    if has_ignored is None:
        has_ignored = bool((target_BZYX == IGNORE).any())
    with torch.autocast(logits_BCZYX.device.type, enabled=False):
        logits = logits_BCZYX.float()
        if not has_ignored:
            return dense_loss(logits, target_BZYX.unsqueeze(1).float())
        # item by item, as they differ in how many voxels count: these, in a row, are all that the loss sees
        losses = [
            dense_loss(item[:, mask].unsqueeze(0), labels[mask][None, None].float())
            for item, labels, mask in zip(logits, target_BZYX, target_BZYX != IGNORE, strict=True)
            if mask.any()
        ]
        # the sum of an empty slice is a 0 that has the logits in its graph, even where they are not finite
        return torch.stack(losses).mean() if losses else logits[:0].sum()


def object_loss(foreground_loss: DenseLoss, logits_BCZYX: Tensor, target_BZYX: Tensor) -> Tensor:
    """Of logits (B, 3, Z, Y, X) – foreground, distance, boundary – against packed targets (B, Z, Y, X) in uint8.

    The sum of the chosen loss on the foreground, and the binary cross entropies of distance and boundary against what
    `data.labels` has packed, averaged over the voxels that count, those of the objects foremost.
    """
    import torch
    from torch.nn import functional

    ignored = target_BZYX == IGNORE
    has_ignored = bool(ignored.any())
    inside = (target_BZYX > 0) & ~ignored
    packed = torch.where(inside, target_BZYX - 1, 0)
    is_boundary = packed >= DEPTHS
    depth = torch.where(is_boundary, packed - DEPTHS, packed).float() / (DEPTHS - 1)
    foreground = torch.where(ignored, target_BZYX, inside.to(torch.uint8))
    loss = segmentation_loss(foreground_loss, logits_BCZYX[:, :1], foreground, has_ignored=has_ignored)
    weight = torch.where(inside, 1.0, BACKGROUND_WEIGHT)
    if has_ignored:
        weight = weight * ~ignored
    with torch.autocast(logits_BCZYX.device.type, enabled=False):
        logits = logits_BCZYX.float()
        parts = ((1, depth, DISTANCE_WEIGHT), (2, is_boundary.float(), BOUNDARY_WEIGHT))
        for output, target, share in parts:
            total = functional.binary_cross_entropy_with_logits(logits[:, output], target, weight, reduction="sum")
            loss = loss + share * (total / weight.sum().clamp(min=1.0))
    return loss


def build_loss(key: str, num_outputs: int, target: Target = "foreground") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (B, C, Z, Y, X) against a target (B, Z, Y, X), for so many outputs of foreground or classes.

    With ``target`` objects the network has further outputs, and the loss further terms. Raises `ConfigError` for a
    key that there is not.
    """
    return partial(segmentation_loss if target == "foreground" else object_loss, LOSSES[key].build(num_outputs))


# --- the losses, with the parameters of the guide -------------------------------------------------------


def _register(key: str, label: str, help: str, monai_name: str, **parameters: float) -> None:
    """Add the loss that is called so in `monai.losses`."""

    def build(num_outputs: int) -> DenseLoss:
        from monai import losses

        if num_outputs > 1:
            activation = {"to_onehot_y": True, "use_softmax" if key == "focal" else "softmax": True}
        else:
            activation = {} if key == "focal" else {"sigmoid": True}  # focal alone has it by itself
        loss: DenseLoss = getattr(losses, monai_name)(**activation, **parameters)
        return loss

    LOSSES.add(Entry(key, label, help, build))


_register(
    "dice", "Dice loss", "How little prediction and labels overlap; does not mind that cells are few.", "DiceLoss"
)
_register("focal", "Focal loss", "Voxel by voxel, with most weight on those that are still wrong.", "FocalLoss")
_register(
    "dice_focal",
    "Dice-Focal loss",
    "Focal loss plus half the Dice loss: overlap and difficult voxels.",
    "DiceFocalLoss",
    lambda_dice=0.5,
)
# The weight of a class is 1 / (its voxels)²; with one output it cancels but for the smoothing terms. Without a voxel of
# the class it would be infinite, and MONAI takes it as 0: such a patch has loss 0, gradients 0.
_register(
    "generalized_dice",
    "Generalized Dice loss",
    "Dice loss with rare classes weighted up; made for several classes, and blind in patches without any cell.",
    "GeneralizedDiceLoss",
)
_register("dice_ce", "Dice-CE loss", "Dice loss plus cross entropy: a good first choice.", "DiceCELoss")
_register("tversky", "Tversky loss", "Dice loss written so that missed and false voxels count apart.", "TverskyLoss")
