"""Segmenting a volume in memory, in a worker thread: the network's maps, and objects made of them.

The maps of the last result, as long as the image that they are of is there and the same.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.io.volume import ArrayVolume, LazyArray
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.run.sources import spare_cores
from napari_celltrain.widgets.segment.model_panel import um

if TYPE_CHECKING:
    from napari_celltrain.runs.model import Segmentation

_TELL_SECONDS = 0.1
LOADING = "Loading the model"
READING = "Reading the image"
PREDICTING = "Segmenting"
DECODING = "Telling objects apart"


@dataclass(frozen=True, slots=True)
class Maps:
    """What the network said of a volume, kept so that objects can be made of it anew."""

    card: ModelCard
    maps: NDArray[Any]
    """uint8 (C, Z, Y, X), at the voxel size that the network saw."""
    voxel_size: Spacing | None
    shape: tuple[int, ...]
    """Of the image (Z, Y, X), which is another one where it was resampled."""

    @property
    def nbytes(self) -> int:
        return int(self.maps.nbytes)


@dataclass(frozen=True, slots=True)
class Result:
    labels: NDArray[Any]
    """(Z, Y, X), on the grid of the image."""
    maps: Maps | None
    """None where there is nothing to be made anew."""
    summary: str
    """What was found, for people."""


def segment_volume(
    job: Job,
    model: Path,
    image: ArrayVolume,
    *,
    threshold: float | None = None,
    decoding: ObjectDecoding | None = None,
    resample: bool = False,
    device: str = "auto",
) -> Result | None:
    """The labels of ``image``; None where the job was given up. Raises :class:`CellTrainError`."""
    job.tell(0, 0, LOADING)
    importlib.import_module("pandas")  # napari's first labels need it, and the window should not wait for it
    from napari_celltrain.engine.device import resolve_device, set_threads
    from napari_celltrain.nets.normalize import measure
    from napari_celltrain.predict.files import MAX_SCALE_RATIO
    from napari_celltrain.runs.model import load_model, segment

    set_threads(spare_cores())
    loaded = load_model(model, resolve_device(device))
    card = loaded.card
    if not resample and largest_ratio(image.voxel_size, card.voxel_size) > MAX_SCALE_RATIO:
        raise DataError(
            f"{image.name}: its voxels are too unlike those of {um(card.voxel_size)} that the model was trained on. "
            "Choose “Resample to the model's voxel size” under Options; or, if the layer's scale is wrong, mend that."
        )
    if job.is_cancelled:
        return None
    job.tell(0, 0, READING)
    array = image.read()
    statistics = measure(array, card.normalization, name=image.name)
    seen, size = _as_seen(array, image.voxel_size, card, resample)
    if job.is_cancelled:
        return None
    teller = _Teller(job, _num_batches(tuple(seen.shape), card))
    found = segment(loaded, seen, statistics, voxel_size=size, threshold=threshold, decoding=decoding, cancelled=teller)
    if job.is_cancelled:
        return None
    kept = None if found.maps is None else Maps(card, found.maps, size, array.shape)
    return _result(found, card, kept, array.shape)


def decode_again(job: Job, kept: Maps, threshold: float, decoding: ObjectDecoding | None) -> Result:
    """Objects made anew of what the network said before."""
    from napari_celltrain.runs.model import to_objects

    job.tell(0, 0, DECODING)
    found = to_objects(kept.card, kept.maps, voxel_size=kept.voxel_size, threshold=threshold, decoding=decoding)
    return _result(found, kept.card, kept, kept.shape)


def _result(found: Segmentation, card: ModelCard, kept: Maps | None, shape: tuple[int, ...]) -> Result:
    if card.label_kind == "objects":
        summary = f"{count(int(found.labels.max(initial=0)), 'object')} found."
    else:
        summary = f"{np.count_nonzero(found.classes) / max(1, found.classes.size):.1%} of the voxels are foreground."
    return Result(_on_grid(found.labels, shape), kept, summary)


def largest_ratio(one: Spacing | None, other: Spacing | None) -> float:
    """How far two voxel sizes are apart along the axis where it is most; 1 where one is not known."""
    if one is None or other is None:
        return 1.0
    return max(max(a / b, b / a) for a, b in zip(one, other, strict=True))


def _as_seen(
    array: NDArray[Any], size: Spacing | None, card: ModelCard, resample: bool
) -> tuple[LazyArray, Spacing | None]:
    """The image as the network is shown it, with its voxel size."""
    if not resample or size is None or card.voxel_size is None:
        return array, size
    from napari_celltrain.data.resample import resampled

    return resampled(array, size, card.voxel_size), card.voxel_size


def _on_grid(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if labels.shape == tuple(shape):
        return labels
    from napari_celltrain.data.resample import labels_back

    return labels_back(labels, (shape[0], shape[1], shape[2]))


def _num_batches(shape: tuple[int, ...], card: ModelCard) -> int:
    from napari_celltrain.engine.predictor import window_starts

    rows, *plane = (len(window_starts(length, size)) for length, size in zip(shape, card.window, strict=True))
    return rows * -(-plane[0] * plane[1] // card.batch_size)


class _Teller:
    """Asked before every batch of windows whether to leave, it also knows how far the work is."""

    def __init__(self, job: Job, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._total = total
        self._done = 0
        self._clock = clock
        self._told = 0.0

    def __call__(self) -> bool:
        now = self._clock()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._job.tell(self._done, self._total, PREDICTING)
        self._done += 1
        if self._done == self._total:
            self._job.tell(self._total, self._total, DECODING)  # what comes after the last batch
        return self._job.is_cancelled


# --- kept maps -------------------------------------------------------------------------------------------

MAX_BYTES = 4 * 2**30
"""Maps larger than this are not kept; nor are those of more than a quarter of the memory that is free."""


class KeptMaps:
    """Holds at most one set of maps. The image is known by its array, which is not kept alive."""

    def __init__(self) -> None:
        self._maps: Maps | None = None
        self._array: Any = None
        self.key: tuple[Any, ...] = ()
        """What else they are of."""

    def keep(self, maps: Maps | None, array: Any, key: tuple[Any, ...]) -> None:
        """Forget what was kept before, and keep ``maps`` where there is room; ``array`` is a weak reference or None."""
        self.forget()
        if maps is None or array is None or maps.nbytes > min(MAX_BYTES, psutil.virtual_memory().available // 4):
            return
        self._maps, self._array, self.key = maps, array, key

    def maps_of(self, array: Any) -> Maps | None:
        """The maps, where they are of this very array."""
        if self._maps is None or array is None or self._array() is not array:
            return None
        return self._maps

    def forget(self) -> None:
        self._maps = self._array = None
        self.key = ()
