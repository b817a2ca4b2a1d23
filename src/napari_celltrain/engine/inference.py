"""From a volume to a prediction: a sliding window whose memory does not grow with the volume's depth.

One code path serves validation, the final files, and use: windows of one fixed size (networks with instance
normalization depend on it) overlap, their logits are blended with a Gaussian weight, and planes are handed out as soon
as no later window can touch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_celltrain.config import ZYX
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.decoding import Target
from napari_celltrain.engine.blocks import slide
from napari_celltrain.engine.device import memory_errors_explained
from napari_celltrain.engine.formats import NumericFormat
from napari_celltrain.engine.objects import quantize
from napari_celltrain.engine.windows import OVERLAP, Region, window_starts, window_weight
from napari_celltrain.parts.normalization import IntensityStatistics

__all__ = ["OVERLAP", "Predictor", "decide", "to_probabilities", "window_starts", "window_weight"]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network and how it is to be run: all that turns a normalized volume into logits."""

    network: nn.Module
    num_outputs: int
    window: ZYX
    device: torch.device
    numeric_format: NumericFormat
    batch_size: int = 2
    target: Target = "foreground"

    def logits(
        self,
        image: LazyArray,
        statistics: IntensityStatistics,
        cancelled: Callable[[], bool] | None = None,
        region: Region | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Predict a volume or a ``region`` of it, from the first plane to the last.

        ``image`` (Z, Y, X) is the whole volume; it is read by slices and may be larger than memory. Yields pairs of
        the first plane's number in the volume and logits (C, planes, Y, X), which together cover the region once.
        Ends early where ``cancelled()`` turns true.
        """
        self.network.eval()  # the trainer puts its own network back into training mode
        with memory_errors_explained():
            yield from slide(self, image, statistics, region, cancelled or (lambda: False))

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
            result[planes] = decide(logits[: self.num_semantic], threshold)
            if probabilities is not None:
                probabilities(first, self.to_probabilities(logits))
        return result

    @property
    def num_semantic(self) -> int:
        """The first outputs, which are of foreground or classes."""
        return 1 if self.target == "objects" else self.num_outputs

    def to_probabilities(self, logits_CZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each output by itself where they are different things, else see :func:`to_probabilities`."""
        if self.target == "foreground":
            return to_probabilities(logits_CZYX)
        return np.concatenate([to_probabilities(output[None]) for output in logits_CZYX])

    def maps(
        self,
        image: LazyArray,
        statistics: IntensityStatistics,
        *,
        probabilities: Callable[[int, NDArray[np.float32]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.uint8]:
        """The probabilities of all outputs (C, Z, Y, X) in 255 steps: what `engine.objects` makes objects of.

        ``probabilities`` is called as by :meth:`labels`.
        """
        shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
        result = np.zeros((self.num_outputs, *shape), np.uint8)
        for first, logits in self.logits(image, statistics, cancelled):
            found = self.to_probabilities(logits)
            result[:, first : first + logits.shape[1]] = quantize(found)
            if probabilities is not None:
                probabilities(first, found)
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
