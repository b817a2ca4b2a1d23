"""The one face that all networks show to the rest: any size in, logits of the same size out.

Imports torch, so it is imported only by the builders of `parts.models`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from napari_celltrain.config import ZYX


class SegmentationNetwork(nn.Module):
    """Pads its input as the network inside needs it, and cuts its output back.

    Takes (B, C, Z, Y, X) of any size, returns logits (B, out, Z, Y, X). Sizes that are multiples of
    ``divisor``, and larger than it along one axis, are not padded and cost nothing.
    """

    def __init__(self, network: nn.Module, divisor: ZYX) -> None:
        super().__init__()
        self.network = network
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        size = image.shape[2:]
        padding = [wanted - have for wanted, have in zip(padded_size(size, self.divisor), size, strict=True)]
        if not any(padding):
            return main_output(self.network(image))
        before = [amount // 2 for amount in padding]
        # From the last axis to the first, each (before, after). The border is repeated rather than mirrored because
        # a mirror cannot be longer than the image; zeros would be a bright or dark wall in a normalized image.
        pairs = [(first, amount - first) for first, amount in zip(before, padding, strict=True)]
        flat = [amount for pair in reversed(pairs) for amount in pair]
        logits = main_output(self.network(functional.pad(image, flat, mode="replicate")))
        z, y, x = (slice(first, first + have) for first, have in zip(before, size, strict=True))
        return logits[:, :, z, y, x]


class UnpaddedNetwork(nn.Module):
    """The network inside alone: for sizes that need no padding, of which none is then fixed in a traced copy."""

    def __init__(self, whole: SegmentationNetwork) -> None:
        super().__init__()
        self.network = whole.network

    def forward(self, image: Tensor) -> Tensor:
        return main_output(self.network(image))


def padded_size(size: Sequence[int], divisor: ZYX) -> list[int]:
    """The smallest size from ``size`` upwards that a network of this divisor can take."""
    padded = [-(-have // step) * step for have, step in zip(size, divisor, strict=True)]
    if all(have == step for have, step in zip(padded, divisor, strict=True)):
        # One voxel would be left at the bottom, and a normalization of one value has no variance: torch refuses it.
        padded[-1] *= 2
    return padded


def main_output(output: Tensor | Sequence[Tensor]) -> Tensor:
    """The segmentation, of a network that returns further outputs behind it (deep supervision, a VAE branch)."""
    if not isinstance(output, Tensor):
        output = output[0]
    return output[:, 0] if output.ndim == 6 else output
