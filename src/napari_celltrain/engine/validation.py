"""Scoring a network on whole validation volumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import ZYX
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.labels import LabelScheme, object_labels, to_target
from napari_celltrain.engine.inference import Predictor, window_starts
from napari_celltrain.engine.metrics import Score, score_volume
from napari_celltrain.parts.normalization import IntensityStatistics


@dataclass(frozen=True, slots=True)
class ValidationVolume:
    """One held-out volume, or block of a volume; its labels are compared as they are."""

    name: str
    image: LazyArray
    labels: LazyArray
    statistics: IntensityStatistics


@dataclass(frozen=True, slots=True)
class ScoredVolume:
    index: int
    """Position among the validation volumes."""
    score: Score
    prediction: NDArray[np.uint8]
    """Class indices (Z, Y, X)."""


class Validator:
    """Predicts and scores validation volumes one after the other."""

    def __init__(self, volumes: Sequence[ValidationVolume], scheme: LabelScheme, threshold: float = 0.5) -> None:
        self.volumes = tuple(volumes)
        self._scheme = scheme
        self._num_classes = max(2, scheme.num_outputs)  # one output tells foreground from background
        self._threshold = threshold

    def score(
        self, predictor: Predictor, indices: Sequence[int], cancelled: Callable[[], bool] | None = None
    ) -> Iterator[ScoredVolume]:
        """Score the volumes at ``indices``, in that order; fewer where ``cancelled()`` turns true."""
        for index in indices:
            volume = self.volumes[index]
            prediction = predictor.labels(
                volume.image, volume.statistics, threshold=self._threshold, cancelled=cancelled
            )
            if cancelled is not None and cancelled():
                return
            yield ScoredVolume(index, self.compare(index, prediction), prediction)

    def compare(self, index: int, prediction: NDArray[np.uint8], objects: NDArray[np.integer] | None = None) -> Score:
        """The counts of a prediction (class indices) of volume number ``index``; its ``objects`` are by default its
        connected components."""
        return self._compare(np.asarray(self.volumes[index].labels[:, :, :]), prediction, objects)

    def _compare(
        self, labels: NDArray[Any], prediction: NDArray[np.uint8], objects: NDArray[np.integer] | None = None
    ) -> Score:
        target = to_target(labels, self._scheme)
        true_objects = object_labels(labels, self._scheme) if self._scheme.kind == "objects" else None
        return score_volume(target, prediction, self._num_classes, true_objects, objects)

    def rehearse(self, predictor: Predictor) -> float:
        """Validate one window of the first volume, so that what cannot work fails before training starts.

        Returns the estimated seconds of a whole validation.
        """
        volume = self.volumes[0]
        corner = tuple(slice(0, size) for size in predictor.window)
        image, labels = np.asarray(volume.image[corner]), np.asarray(volume.labels[corner])
        start = time.perf_counter()
        for _ in range(2):  # the first pass also warms up
            start = time.perf_counter()
            prediction = predictor.labels(image, volume.statistics, threshold=self._threshold)
            self._compare(labels, prediction)
        seconds = time.perf_counter() - start
        return seconds * self.num_windows(predictor.window)

    def num_windows(self, window: ZYX) -> int:
        """Windows of this size over all volumes."""
        return sum(
            prod(len(window_starts(int(length), size)) for length, size in zip(v.image.shape, window, strict=True))
            for v in self.volumes
        )
