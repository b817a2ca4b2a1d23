"""Where the windows of a prediction lie, and how much each counts where several overlap.

There is one grid of windows for a volume, whichever part of it is being predicted: so it does not matter for the
result how a volume is divided, nor who computes which part.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import prod

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.io.axes import Region, zyx
from napari_celltrain.io.volume import three_slices
from napari_celltrain.values.config import ZYX

OVERLAP = 0.25  # share of a window that overlaps with the next: 0.5 takes twice as long for little
MIN_WEIGHT = 1e-3  # smallest Gaussian weight along an axis, relative to the middle: keeps the division accurate
VOXELS_AT_ONCE = 2**22  # logits of about so many voxels are handed out at a time: few calls, and little memory


def window_starts(length: int, size: int) -> list[int]:
    """First positions of windows that cover ``length`` evenly, overlapping by at least ``OVERLAP``."""
    if length <= size:
        return [0]
    step = max(1, int(size * (1 - OVERLAP)))
    count = -(-(length - size) // step) + 1
    return [round(position) for position in np.linspace(0, length - size, count)]


def window_weight(size: int) -> NDArray[np.float32]:
    """Gaussian weight along one axis, with a sigma of an eighth of the window (as in MONAI and nnU-Net)."""
    position = np.arange(size) - (size - 1) / 2
    return np.asarray(np.maximum(np.exp(-0.5 * (position / (size / 8)) ** 2), MIN_WEIGHT), np.float32)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """All windows of a volume. Where the volume is smaller than a window, the window reaches beyond its end."""

    shape: ZYX
    window: ZYX

    def starts(self, axis: int) -> list[int]:
        return window_starts(self.shape[axis], self.window[axis])

    def touching(self, axis: int, part: slice) -> list[int]:
        """First positions of the windows that reach into ``part`` of an axis."""
        size = self.window[axis]
        return [start for start in self.starts(axis) if start < part.stop and start + size > part.start]

    def total_weight(self, axis: int) -> NDArray[np.float32]:
        """The sum of the weights of all windows at each voxel along an axis. The sum over the grid is the product of
        the three, as the weight of a window is a product of one for each axis."""
        size = self.window[axis]
        weight = window_weight(size)
        total = np.zeros(max(self.shape[axis], size), np.float32)
        for start in self.starts(axis):
            total[start : start + size] += weight
        return total[: self.shape[axis]]

    def memory(self, plane: tuple[int, int], num_outputs: int, itemsize: int) -> int:
        """Bytes held while a region of this height and width is predicted, whatever its depth; without what the
        network itself takes. ``itemsize`` is of the image."""
        depth, height, width = self.window
        sums = 4 * num_outputs * depth * plane[0] * plane[1]
        # windows reach out of the region; new planes are read beside those that are kept
        rows, columns = min(plane[0] + 2 * height, self.shape[1]), min(plane[1] + 2 * width, self.shape[2])
        read = 2 * itemsize * depth * rows * columns
        return sums + read + 3 * 4 * num_outputs * max(VOXELS_AT_ONCE, plane[0] * plane[1])


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """A volume cut into boxes of one size (smaller at its end), numbered along z first, then x, then y.

    So consecutive numbers are neighbours in one column, which is predicted from its top to its bottom.
    """

    shape: ZYX
    size: ZYX

    @property
    def counts(self) -> ZYX:
        return zyx(-(-length // size) for length, size in zip(self.shape, self.size, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def position(self, number: int) -> ZYX:
        """Which block it is along z, y and x."""
        depth, _, width = self.counts
        column, z = divmod(number, depth)
        return z, *divmod(column, width)

    def number(self, position: ZYX) -> int:
        depth, _, width = self.counts
        z, y, x = position
        return (y * width + x) * depth + z

    def region(self, number: int) -> Region:
        sides = zip(self.position(number), self.size, self.shape, strict=True)
        return three_slices(tuple(slice(place * size, min((place + 1) * size, end)) for place, size, end in sides))

    def runs(self, numbers: list[int]) -> list[list[int]]:
        """``numbers`` (ascending) in groups of neighbours within one column, to be computed in one go."""
        depth = self.counts[0]
        # within a run, numbers grow as their places do
        runs = groupby(enumerate(numbers), lambda pair: (pair[1] - pair[0], pair[1] // depth))
        return [[number for _, number in run] for _, run in runs]
