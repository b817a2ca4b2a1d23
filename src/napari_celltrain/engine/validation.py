"""Scoring a network on whole validation volumes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import LabelScheme, object_labels, to_target
from napari_celltrain.engine.objects import Maps, decode, foreground_of
from napari_celltrain.engine.predictor import Predictor, window_starts
from napari_celltrain.engine.scores import Score, score_volume
from napari_celltrain.engine.tuning import MAX_VOXELS, TuningVolume, limited, num_candidates
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.decoding import ObjectDecoding, Target
from napari_celltrain.values.events import VolumeScore


@dataclass(frozen=True, slots=True)
class ValidationVolume:
    """One held-out volume, or block of a volume; its labels are compared as they are."""

    name: str
    image: LazyArray
    labels: LazyArray
    statistics: IntensityStatistics
    voxel_size: Spacing | None = None


@dataclass(frozen=True, slots=True)
class ScoredVolume:
    index: int
    """Position among the validation volumes."""
    score: Score
    prediction: NDArray[np.uint8]
    """Class indices (Z, Y, X)."""
    objects: NDArray[np.int32] | None = None
    """The objects that were decoded, where labels are objects."""

    @property
    def shown(self) -> NDArray[Any]:
        """What people look at: the objects in as few bytes as hold their numbers, or the class indices."""
        if self.objects is None:
            return self.prediction
        return self.objects.astype(np.min_scalar_type(int(self.objects.max(initial=0))))


class Validator:
    """Predicts and scores validation volumes one after the other."""

    def __init__(
        self,
        volumes: Sequence[ValidationVolume],
        scheme: LabelScheme,
        decoding: ObjectDecoding | None = None,
        spacing: Spacing = (1.0, 1.0, 1.0),
        threshold: float = 0.5,
    ) -> None:
        """``decoding`` and ``spacing`` (of volumes that do not tell their own) are for labels that are objects."""
        self.volumes = tuple(volumes)
        self.decoding = decoding
        self.spacing = spacing
        self._scheme = scheme
        self._num_classes = max(2, scheme.num_outputs)  # one output tells foreground from background
        self.threshold = threshold
        self._decoding_seconds = 0.0
        self._decoded_voxels = 0

    def score(self, predictor: Predictor, indices: Sequence[int]) -> Iterator[ScoredVolume]:
        """Score the volumes at ``indices``, in that order."""
        # of this validation alone: the first pieces of a new network are slow to decode, and so is a cold start
        self._decoding_seconds, self._decoded_voxels = 0.0, 0
        for index in indices:
            volume = self.volumes[index]
            prediction, objects = self._predict(predictor, volume, volume.image)
            yield ScoredVolume(index, self.compare(index, prediction, objects), prediction, objects)

    def by_volume(self, scores: Sequence[Score]) -> tuple[VolumeScore, ...]:
        """One score for each volume, with its name."""
        pairs = zip(self.volumes, scores, strict=True)
        return tuple(VolumeScore(name=volume.name, dice=score.dice, f1=score.f1) for volume, score in pairs)

    def _predict(
        self, predictor: Predictor, volume: ValidationVolume, image: LazyArray
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Class indices of ``image``, which is of the volume, and its objects."""
        if self.decoding is None:
            return predictor.labels(image, volume.statistics, threshold=self.threshold), None
        maps = predictor.maps(image, volume.statistics)
        start = time.perf_counter()
        objects = decode(maps, self.threshold, self.decoding, volume.voxel_size or self.spacing)
        self._decoding_seconds += time.perf_counter() - start
        self._decoded_voxels += objects.size
        return foreground_of(maps, self.threshold).astype(np.uint8), objects

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

    def tuning_volumes(self, maps: Mapping[int, Maps]) -> list[TuningVolume]:
        """What the decoding is chosen on: the volumes at these indices, with the maps predicted of them."""
        found = []
        for index, predicted in maps.items():
            volume = self.volumes[index]
            labels = np.asarray(volume.labels[:, :, :])
            target, objects = to_target(labels, self._scheme), object_labels(labels, self._scheme)
            found.append(TuningVolume.of(predicted, target, objects, volume.voxel_size or self.spacing))
        return limited(found)

    def tuning_seconds(self, target: Target) -> float:
        """How long choosing the decoding will take, by what decoding has taken so far."""
        if self.decoding is None or not self._decoded_voxels:
            return 0.0
        voxels = min(MAX_VOXELS, sum(prod(int(size) for size in volume.image.shape) for volume in self.volumes))
        return num_candidates(target) * voxels * self._decoding_seconds / self._decoded_voxels

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
            prediction, objects = self._predict(predictor, volume, image)
            self._compare(labels, prediction, objects)
        seconds = time.perf_counter() - start
        self._decoding_seconds, self._decoded_voxels = 0.0, 0
        return seconds * self.num_windows(predictor.window)

    def num_windows(self, window: ZYX) -> int:
        """Windows of this size over all volumes."""
        return sum(
            prod(len(window_starts(int(length), size)) for length, size in zip(v.image.shape, window, strict=True))
            for v in self.volumes
        )
