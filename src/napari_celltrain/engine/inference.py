"""From a volume to a prediction: a sliding window whose memory does not grow with the volume's depth.

One code path serves validation, the final files, and use: windows of one fixed size (networks with instance
normalization depend on it) overlap, their logits are blended with a Gaussian weight, and planes are handed out as soon
as no later window can touch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_celltrain.config import ZYX
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.engine.dataset import mirror_to
from napari_celltrain.engine.device import free_memory, memory_errors_explained
from napari_celltrain.engine.formats import NumericFormat
from napari_celltrain.parts.normalization import IntensityStatistics, normalize

OVERLAP = 0.25
"""Share of a window that overlaps with the next: 0.5 takes twice as long for little."""
MIN_WEIGHT = 1e-3
"""Smallest Gaussian weight along an axis, relative to the middle: keeps the division well-conditioned."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network and how it is to be run: all that turns a normalized volume into logits."""

    network: nn.Module
    num_outputs: int
    window: ZYX
    device: torch.device
    numeric_format: NumericFormat
    batch_size: int = 2

    def logits(
        self, image: LazyArray, statistics: IntensityStatistics, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Predict a whole volume, from the first plane to the last.

        ``image`` (Z, Y, X) is read by slices and may be larger than memory. Yields pairs of the first plane's
        number and logits (C, planes, Y, X), which together cover the volume once. Ends early where ``cancelled()``
        turns true.
        """
        self.network.eval()  # the trainer puts its own network back into training mode
        with memory_errors_explained():
            yield from _slide(self, image, statistics, cancelled or (lambda: False))

    def labels(
        self,
        image: LazyArray,
        statistics: IntensityStatistics,
        *,
        threshold: float = 0.5,
        probabilities: Callable[[int, NDArray[np.float32]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.uint8]:
        """The class index of every voxel (Z, Y, X): ``sigmoid(logits) >= threshold``, or the most probable class.

        ``probabilities`` is called with each group of planes (first plane, (C, planes, Y, X) in 0…1) on the way.
        """
        shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
        result = np.zeros(shape, np.uint8)
        for first, logits in self.logits(image, statistics, cancelled):
            planes = slice(first, first + logits.shape[1])
            result[planes] = decide(logits, threshold)
            if probabilities is not None:
                probabilities(first, to_probabilities(logits))
        return result


def decide(logits_CZYX: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Class indices from logits. The threshold is applied to the logits (its own logit), which spares the
    exponential and decides every voxel the same."""
    if logits_CZYX.shape[0] == 1:
        limit = np.float32(np.log(threshold / (1.0 - threshold)))
        foreground: NDArray[np.uint8] = (logits_CZYX[0] >= limit).astype(np.uint8)
        return foreground
    classes: NDArray[np.uint8] = logits_CZYX.argmax(axis=0).astype(np.uint8)
    return classes


def to_probabilities(logits_CZYX: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sigmoid for one channel, softmax over several."""
    logits = torch.from_numpy(logits_CZYX)
    result = torch.sigmoid(logits) if logits.shape[0] == 1 else torch.softmax(logits, dim=0)
    return np.asarray(result.numpy())


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
    weight = np.exp(-0.5 * (position / (size / 8)) ** 2)
    bounded: NDArray[np.float32] = np.maximum(weight, MIN_WEIGHT).astype(np.float32)
    return bounded


class _Stop(Protocol):
    def __call__(self) -> bool: ...


def _slide(
    predictor: Predictor, image: LazyArray, statistics: IntensityStatistics, cancelled: _Stop
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    shape = tuple(int(size) for size in image.shape)
    window = predictor.window
    padded = tuple(max(size, length) for size, length in zip(window, shape, strict=True))
    starts = [window_starts(length, size) for length, size in zip(padded, window, strict=True)]
    device = _accumulator_device(predictor, padded)
    # the weights are a product of one weight per axis, and so is their sum over a grid of windows
    weights = [torch.from_numpy(window_weight(size)).to(device) for size in window]
    totals = [_total(length, s, w) for length, s, w in zip(padded, starts, weights, strict=True)]
    plane_total = totals[1][:, None] * totals[2][None, :]
    weight = weights[0][:, None, None] * weights[1][None, :, None] * weights[2][None, None, :]
    sums = torch.zeros((predictor.num_outputs, window[0], *padded[1:]), device=device)
    for row, z in enumerate(starts[0]):
        planes = _read_planes(image, statistics, z, window, shape)
        positions = list(product(starts[1], starts[2]))
        for index in range(0, len(positions), predictor.batch_size):
            if cancelled():
                return
            _add_windows(predictor, planes, positions[index : index + predictor.batch_size], weight, sums)
        z_next = starts[0][row + 1] if row + 1 < len(starts[0]) else padded[0]
        done = z_next - z
        final = sums[:, :done] / (totals[0][z:z_next, None, None] * plane_total)
        keep = max(0, min(z_next, shape[0]) - z)
        if keep:
            yield z, final[:, :keep, : shape[1], : shape[2]].cpu().numpy()
        if z_next < padded[0]:
            sums = torch.cat([sums[:, done:], torch.zeros_like(sums[:, :done])], dim=1)


def _accumulator_device(predictor: Predictor, padded: tuple[int, ...]) -> torch.device:
    """Sums are kept where the network runs, unless they would crowd it out."""
    needed = 4 * (predictor.num_outputs + 2) * predictor.window[0] * padded[1] * padded[2]
    if predictor.device.type == "cpu" or needed > free_memory(predictor.device) // 4:
        return torch.device("cpu")
    return predictor.device


def _total(length: int, starts: list[int], weight: Tensor) -> Tensor:
    total = torch.zeros(length, device=weight.device)
    for start in starts:
        total[start : start + len(weight)] += weight
    return total


def _read_planes(
    image: LazyArray, statistics: IntensityStatistics, z: int, window: ZYX, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The planes of one row of windows, normalized, mirrored up to the window where the volume is smaller."""
    planes = normalize(np.asarray(image[z : min(z + window[0], shape[0]), :, :]), statistics)
    return mirror_to(planes, window)


@torch.inference_mode()
def _add_windows(
    predictor: Predictor,
    planes: NDArray[np.float32],
    positions: list[tuple[int, int]],
    weight: Tensor,
    sums: Tensor,
) -> None:
    _, height, width = predictor.window
    batch = np.stack([planes[:, y : y + height, x : x + width] for y, x in positions])[:, None]
    inputs = predictor.numeric_format.place(torch.from_numpy(batch), predictor.device)
    with predictor.numeric_format.autocast(predictor.device):
        logits = predictor.network(inputs)
    logits = logits.float().to(sums.device) * weight
    for (y, x), part in zip(positions, logits, strict=True):
        sums[:, :, y : y + height, x : x + width] += part
