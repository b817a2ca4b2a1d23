"""V-Net in three widths: Milletari et al. 2016, https://arxiv.org/abs/1606.04797.

MONAI's `VNet` is fixed at 16 filters; this one is made of its very blocks, and with ``width=16`` it is the same.
"""

from __future__ import annotations

from monai.networks.nets.vnet import DownTransition, InputTransition, OutputTransition, UpTransition
from torch import Tensor, nn


class ScalableVNet(nn.Module):
    """Four levels of residual 5x5x5 convolutions with batch normalization and dropout, as in MONAI."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        elu = ("elu", {"inplace": True})
        self.enter = InputTransition(3, in_channels, width, elu)
        self.down = nn.ModuleList(
            [
                DownTransition(3, width, 1, elu),
                DownTransition(3, 2 * width, 2, elu),
                DownTransition(3, 4 * width, 3, elu, dropout_prob=0.5),
                DownTransition(3, 8 * width, 2, elu, dropout_prob=0.5),
            ]
        )
        self.up = nn.ModuleList(
            [
                UpTransition(3, 16 * width, 16 * width, 2, elu, dropout_prob=(0.5, 0.5)),
                UpTransition(3, 16 * width, 8 * width, 2, elu, dropout_prob=(0.5, 0.5)),
                UpTransition(3, 8 * width, 4 * width, 1, elu),
                UpTransition(3, 4 * width, 2 * width, 1, elu),
            ]
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
