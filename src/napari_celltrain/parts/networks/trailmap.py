"""The 3D U-Net of TRAILMAP: Friedmann et al. 2020, PNAS, https://doi.org/10.1073/pnas.1918465117."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_celltrain.config import ZYX


class TrailMap(nn.Module):
    """Two convolutions a level, max pooling down, transposed convolutions up, skips by concatenation.

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
