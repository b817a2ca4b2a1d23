"""The interface that all networks share (any size in, logits of the same size out), and two networks that MONAI lacks.

Imports torch, so it is imported only by the builders of `nets.models`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.vnet import DownTransition, InputTransition, OutputTransition, UpTransition
from torch import Tensor, nn
from torch.nn import functional

from napari_celltrain.values.config import ZYX


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


class LimitedNetwork(nn.Module):
    """A network with the last step of `nets.normalize.normalize` in front: input beyond ± ``limit`` is compressed."""

    def __init__(self, network: nn.Module, limit: float) -> None:
        super().__init__()
        self.network = network
        self.limit = limit

    def forward(self, image: Tensor) -> Tensor:
        beyond = image.abs() - self.limit
        compressed = torch.sign(image) * (self.limit + torch.log1p(beyond.clamp(min=0.0)))
        output: Tensor = self.network(torch.where(beyond > 0, compressed, image))
        return output


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


class TrailMap(nn.Module):
    """The 3D U-Net of Friedmann et al. 2020, PNAS, https://doi.org/10.1073/pnas.1918465117.

    Two convolutions a level, max pooling down, transposed convolutions up, skips by concatenation.

    ``width`` is the number of filters of the first convolution (32 in the paper); each level has twice that of
    the one above. Unlike in the paper the pooling may leave a coarse axis alone.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, strides: tuple[ZYX, ...]) -> None:
        super().__init__()
        widths = [2 * width * 2**level for level in range(len(strides) + 1)]
        self.down = nn.ModuleList([_two_convolutions(in_channels, width, widths[0])])
        self.pool = nn.ModuleList([nn.MaxPool3d(stride, stride) for stride in strides])
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, stride in enumerate(strides):
            shallow, deep = widths[level], widths[level + 1]
            self.down.append(_two_convolutions(shallow, shallow, deep))
            self.grow.append(nn.ConvTranspose3d(deep, deep, kernel_size=stride, stride=stride))
            self.up.append(_two_convolutions(deep + shallow, shallow, shallow))
        self.head = nn.Conv3d(widths[0], out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.down[0](image)
        skips: list[Tensor] = []
        for pool, down in zip(self.pool, list(self.down)[1:], strict=True):
            skips.append(features)
            features = down(pool(features))
        for grow, up, skip in zip(reversed(self.grow), reversed(self.up), reversed(skips), strict=True):
            features = up(torch.cat([grow(features), skip], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _two_convolutions(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((in_channels, middle), (middle, out_channels)):
        # The normalization has its own offset, so the convolution needs no bias.
        layers += [
            nn.Conv3d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class ScalableVNet(nn.Module):
    """V-Net (Milletari et al. 2016, https://arxiv.org/abs/1606.04797) in any width.

    Four levels of residual 5x5x5 convolutions with batch normalization and dropout. MONAI's `VNet` is fixed at 16
    filters; this one is made of its very blocks, and with ``width=16`` it is the same.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        elu = ("elu", {"inplace": True})
        self.enter = InputTransition(3, in_channels, width, elu)
        down = ((1, 1, None), (2, 2, None), (4, 3, 0.5), (8, 2, 0.5))
        self.down = nn.ModuleList(
            DownTransition(3, factor * width, convolutions, elu, dropout_prob=dropout)
            for factor, convolutions, dropout in down
        )
        up = ((16, 16, 2, (0.5, 0.5)), (16, 8, 2, (0.5, 0.5)), (8, 4, 1, (None, 0.5)), (4, 2, 1, (None, 0.5)))
        self.up = nn.ModuleList(
            UpTransition(3, inputs * width, outputs * width, convolutions, elu, dropout_prob=dropout)
            for inputs, outputs, convolutions, dropout in up
        )
        self.leave = OutputTransition(3, 2 * width, out_channels, elu)

    def forward(self, image: Tensor) -> Tensor:
        levels: list[Tensor] = [self.enter(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = levels.pop()
        for up in self.up:
            features = up(features, levels.pop())
        logits: Tensor = self.leave(features)
        return logits
