"""From a volume to a prediction: a sliding window whose memory does not grow with the volume's depth.

Validation, the final files and use share it. Windows of one fixed size (networks with instance normalization depend on
it) overlap, their logits are blended with a Gaussian weight, and planes are handed out as soon as no later window can
touch them. What overlaps from one row of windows to the next is read and computed once. A region can be predicted
alone: its windows are run, and their logits blended within the region only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_celltrain.engine.device import free_memory, memory_errors_explained
from napari_celltrain.engine.objects import quantize
from napari_celltrain.engine.patches import mirror_to
from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.windows import VOXELS_AT_ONCE, WindowGrid, window_weight
from napari_celltrain.io.axes import Region, zyx
from napari_celltrain.io.volume import LazyArray, voxels_in
from napari_celltrain.nets.normalize import IntensityStatistics, normalize
from napari_celltrain.values.config import ZYX
from napari_celltrain.values.decoding import Target

OnBatch = Callable[[int, int], object] | None
"""Called before each batch of windows, with its number and how many there are."""
OnPlanes = Callable[[int, NDArray[np.float32]], None] | None


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
        on_batch: OnBatch = None,
        region: Region | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Predict a volume or a ``region`` of it, from the first plane to the last.

        ``image`` (Z, Y, X) is the whole volume; it is read by slices and may be larger than memory. Yields pairs of
        the first plane's number in the volume and logits (C, planes, Y, X), which together cover the region once.
        They do not depend on the region beyond rounding, and not at all on its extent along z.
        """
        shape = zyx(image.shape)
        depth, height, width = region or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        grid = WindowGrid(shape, self.window)
        rows = grid.touching(0, depth)
        self.network.eval()  # the trainer puts its own network back into training mode
        with memory_errors_explained():
            reader = _Reader(image, grid, (height, width))
            sums = _Sums(self, grid, (height, width))
            positions = list(product(reader.starts_y, reader.starts_x))
            batches = [positions[i : i + self.batch_size] for i in range(0, len(positions), self.batch_size)]
            for row, (z, z_next) in enumerate(zip(rows, [*rows[1:], depth.stop], strict=True)):
                planes = reader.read(z)
                for index, batch in enumerate(batches):
                    if on_batch is not None:
                        on_batch(row * len(batches) + index, len(rows) * len(batches))
                    patches = [normalize(planes[reader.window_at(y, x)], statistics) for y, x in batch]
                    sums.add(batch, self.run([mirror_to(patch, self.window) for patch in patches]))
                yield from sums.take(z, slice(max(z, depth.start), max(z_next, depth.start)))
                sums.move_on(z_next - z)

    def maps(
        self,
        image: LazyArray,
        statistics: IntensityStatistics,
        *,
        threshold: float | None = None,
        probabilities: OnPlanes = None,
        on_batch: OnBatch = None,
    ) -> NDArray[np.uint8]:
        """The probabilities of all outputs (C, Z, Y, X) in 255 steps: what `engine.objects` makes objects of.

        With ``threshold`` the class indices (1, Z, Y, X), by a network of foreground or classes; see :func:`decide`.
        ``probabilities`` is called with each group of planes (first plane, (C, planes, Y, X) in 0…1) on the way.
        """
        result = np.zeros((self.num_outputs if threshold is None else 1, *image.shape), np.uint8)
        for first, logits in self.logits(image, statistics, on_batch):
            found = self.to_probabilities(logits) if threshold is None or probabilities is not None else logits
            planes = quantize(found) if threshold is None else decide(logits, threshold)
            result[:, first : first + logits.shape[1]] = planes
            if probabilities is not None:
                probabilities(first, found)
        return result

    def to_probabilities(self, logits_CZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over classes; a sigmoid of each output where they are different things."""
        logits = torch.from_numpy(logits_CZYX)
        if self.target == "foreground" and len(logits) > 1:
            return np.asarray(torch.softmax(logits, dim=0).numpy())
        return np.stack([torch.sigmoid(output).numpy() for output in logits])

    @torch.inference_mode()
    def run(self, patches: list[NDArray[np.float32]]) -> Tensor:
        """Logits (B, C, Z, Y, X) in float32 of normalized patches of one size."""
        inputs = self.numeric_format.place(torch.from_numpy(np.stack(patches)[:, None]), self.device)
        with self.numeric_format.autocast(self.device):
            logits: Tensor = self.network(inputs)
        return logits.float()


def decide(logits_CZYX: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Class indices from logits. The threshold is applied to the logits (its own logit), which spares the
    exponential and decides every voxel the same."""
    if logits_CZYX.shape[0] > 1:
        return np.asarray(logits_CZYX.argmax(axis=0), np.uint8)
    return np.asarray(logits_CZYX[0] >= np.float32(np.log(threshold / (1.0 - threshold))), np.uint8)


class _Reader:
    """The planes of one row of windows after the other; those that two rows share are read once."""

    def __init__(self, image: LazyArray, grid: WindowGrid, plane: tuple[slice, slice]) -> None:
        self._image = image
        self._window = grid.window
        self.starts_y, self.starts_x = grid.touching(1, plane[0]), grid.touching(2, plane[1])
        self._part = (
            slice(self.starts_y[0], min(self.starts_y[-1] + grid.window[1], grid.shape[1])),
            slice(self.starts_x[0], min(self.starts_x[-1] + grid.window[2], grid.shape[2])),
        )
        size = (min(grid.window[0], grid.shape[0]), *(part.stop - part.start for part in self._part))
        self._planes = np.empty(size, image.dtype)
        self._end = 0

    def read(self, z: int) -> NDArray[Any]:
        """The planes of the windows that begin at plane ``z``, in the part of the volume that they lie in; raw."""
        end = z + len(self._planes)
        kept = max(0, self._end - z)
        self._planes[:kept] = self._planes[len(self._planes) - kept :]
        self._planes[kept:] = self._image[z + kept : end, *self._part]
        self._end = end
        return self._planes

    def window_at(self, y: int, x: int) -> tuple[slice, slice, slice]:
        """Where a window lies in what was read."""
        y, x = y - self._part[0].start, x - self._part[1].start
        return slice(None), slice(y, y + self._window[1]), slice(x, x + self._window[2])


class _Sums:
    """Weighted sums of logits (C, Z, Y, X) over one row of windows, within the region's height and width."""

    def __init__(self, predictor: Predictor, grid: WindowGrid, plane: tuple[slice, slice]) -> None:
        self._window, self._plane = grid.window, plane
        size = (predictor.num_outputs, self._window[0], *(part.stop - part.start for part in plane))
        device = predictor.device
        if device.type == "cpu" or 6 * voxels_in(size) > free_memory(device) // 4:
            device = torch.device("cpu")  # sums are kept where the network runs, unless they would crowd it out
        self._sums = torch.zeros(size, device=device)
        weights = [torch.from_numpy(window_weight(length)).to(device) for length in self._window]
        self._weight = weights[0][:, None, None] * weights[1][None, :, None] * weights[2][None, None, :]
        totals = [torch.from_numpy(grid.total_weight(axis)).to(device) for axis in range(3)]
        self._depth_total = totals[0]
        self._plane_total = totals[1][plane[0], None] * totals[2][None, plane[1]]

    def add(self, positions: list[tuple[int, int]], logits_BCZYX: Tensor) -> None:
        weighted = logits_BCZYX.to(self._sums.device) * self._weight
        for (y, x), window in zip(positions, weighted, strict=True):
            to_y, from_y = _shared(y, self._window[1], self._plane[0])
            to_x, from_x = _shared(x, self._window[2], self._plane[1])
            self._sums[:, :, to_y, to_x] += window[:, :, from_y, from_x]

    def take(self, first: int, planes: slice) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The blended logits of ``planes``, counted in the volume; ``first`` is the plane of the row's windows."""
        at_once = max(1, VOXELS_AT_ONCE // max(1, voxels_in(tuple(self._plane_total.shape))))
        for start in range(planes.start, planes.stop, at_once):
            stop = min(start + at_once, planes.stop)
            total = self._depth_total[start:stop, None, None] * self._plane_total
            yield start, (self._sums[:, start - first : stop - first] / total).cpu().numpy()

    def move_on(self, planes: int) -> None:
        """Let go of the first ``planes``; what later windows add to comes first."""
        kept = self._sums.shape[1] - planes
        for plane in range(max(0, kept)):  # one by one, as source and target may overlap
            self._sums[:, plane] = self._sums[:, plane + planes]
        self._sums[:, max(0, kept) :] = 0


def _shared(start: int, size: int, part: slice) -> tuple[slice, slice]:
    """Where a window and ``part`` of an axis overlap, counted from the start of the part and of the window."""
    low, high = max(start, part.start), min(start + size, part.stop)
    return slice(low - part.start, high - part.start), slice(low - start, high - start)
