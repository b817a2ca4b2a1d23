"""Scoring a network on whole validation volumes, and tuning on them how its objects are decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE, LabelScheme, object_labels, to_target
from napari_celltrain.data.objects import find_overlaps
from napari_celltrain.engine.objects import Maps, decode, foreground_of
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.engine.scores import Score, count_objects, count_voxels
from napari_celltrain.engine.windows import window_starts
from napari_celltrain.io.axes import WHOLE, Region
from napari_celltrain.io.volume import LazyArray, voxels_in
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.decoding import FIRST_LEVEL, Method, ObjectDecoding, Target
from napari_celltrain.values.events import VolumeScore

MAX_TUNED_VOXELS = 2**24  # voxels that are decoded for each candidate: more would cost minutes and add little
MIN_BLOCK = 2**21  # voxels that a volume is cut down to at the least, so that most objects in it are whole
MIN_GAIN = 1e-4  # by how much a score must be better to count as better
HOPELESS = 0.1  # a method whose first guess is so far behind the best is not searched further
MAX_LEFT_OUT = 0.05  # share of the labelled objects that may be below the smallest size
STRICT_IOU = 0.7
STRICT_WEIGHT = 0.1  # F1 at IoU 0.5 decides; between nearly equal ones, that at 0.7 does

_SHAPE = (("smoothing_um", (0.0, 0.4, 0.7, 1.0, 1.3, 1.7)), ("seed_distance_um", (0.5, 0.75, 1.0, 1.5)))
_THRESHOLD = ("threshold", (0.3, 0.4, 0.5, 0.6))
CANDIDATES: dict[Method, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "learned": (
        ("depth_weight", (0.0, 0.5, 1.0, 2.0)),
        ("boundary_weight", (0.0, 0.25, 0.5, 1.0)),
        *_SHAPE,
        ("seed_level", (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)),
        _THRESHOLD,
    ),
    "watershed": (*_SHAPE, _THRESHOLD),
    "components": (_THRESHOLD,),
}
"""Of each method the parameters that are tried one after the other, and their values."""
_RELATIVE = ("smoothing_um", "seed_distance_um", "depth_weight")
"""Parameters whose values are multiples of what the size of the objects suggests."""
METHODS: dict[Target, tuple[Method, ...]] = {
    "objects": ("learned", "watershed", "components"),
    "foreground": ("watershed", "components"),
}
"""Those that are tried, by what the network has learned."""


@dataclass(frozen=True, slots=True)
class ValidationVolume:
    """One held-out volume, or block of a volume; its labels are compared as they are."""

    name: str
    image: LazyArray
    labels: LazyArray
    statistics: IntensityStatistics
    voxel_size: Spacing | None = None


@dataclass
class Validator:
    """Predicts and scores validation volumes one after the other."""

    volumes: Sequence[ValidationVolume]
    scheme: LabelScheme
    decoding: ObjectDecoding | None = None
    """Of labels that are objects."""
    spacing: Spacing = (1.0, 1.0, 1.0)
    """Of volumes whose own is unknown."""
    threshold: float = 0.5
    _decoding_seconds: float = 0.0
    _decoded_voxels: int = 0

    def score(self, predictor: Predictor, indices: Sequence[int]) -> Iterator[tuple[int, Score, NDArray[Any]]]:
        """Score the volumes at ``indices``, in that order: index, score, and the objects or class indices (Z, Y, X)."""
        # of this validation alone: the components of a new network are slow to decode, and so is a cold start
        self._decoding_seconds, self._decoded_voxels = 0.0, 0
        for index in indices:
            volume = self.volumes[index]
            prediction, objects = self._predict(predictor, volume, volume.image)
            yield index, self.compare(index, prediction, objects), prediction if objects is None else objects

    def by_volume(self, scores: Sequence[Score]) -> tuple[VolumeScore, ...]:
        """One score for each volume, with its name."""
        pairs = zip(self.volumes, scores, strict=True)
        return tuple(VolumeScore(name=volume.name, dice=score.dice, f1=score.f1) for volume, score in pairs)

    def _predict(
        self, predictor: Predictor, volume: ValidationVolume, image: LazyArray
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Class indices of ``image``, which is of the volume, and its objects."""
        if self.decoding is None:
            return predictor.maps(image, volume.statistics, threshold=self.threshold)[0], None
        maps = predictor.maps(image, volume.statistics)
        start = time.perf_counter()
        objects = decode(maps, self.threshold, self.decoding, volume.voxel_size or self.spacing)
        self._decoding_seconds += time.perf_counter() - start
        self._decoded_voxels += objects.size
        return foreground_of(maps, self.threshold).astype(np.uint8), objects

    def compare(
        self,
        index: int,
        prediction: NDArray[np.uint8],
        objects: NDArray[np.integer] | None = None,
        region: Region = WHOLE,
    ) -> Score:
        """The counts of a prediction (class indices) of a ``region`` of volume number ``index``, and its ``objects``.
        Ignored voxels hold none on either side."""
        labels = np.asarray(self.volumes[index].labels[region])
        target = to_target(labels, self.scheme)
        voxels = count_voxels(target, prediction, max(2, self.scheme.num_outputs))
        if objects is None:
            return Score(voxels)
        found = np.where(target == IGNORE, 0, objects)
        return Score(voxels, count_objects(object_labels(labels, self.scheme), found))

    def tuning_volumes(self, maps: Mapping[int, Maps]) -> list[TuningVolume]:
        """What the decoding is chosen on: the volumes at these indices, with the maps predicted of them."""
        found = []
        for index, predicted in maps.items():
            volume = self.volumes[index]
            labels = np.asarray(volume.labels[:, :, :])
            spacing, ignore_value = volume.voxel_size or self.spacing, self.scheme.ignore_value
            ignored = None if ignore_value is None else np.asarray(labels == ignore_value)
            found.append(TuningVolume(predicted, object_labels(labels, self.scheme), spacing, ignored))
        return limited(found)

    def tuning_seconds(self, target: Target) -> float:
        """How long choosing the decoding will take, by what decoding has taken so far."""
        if self.decoding is None or not self._decoded_voxels:
            return 0.0
        voxels = min(MAX_TUNED_VOXELS, sum(voxels_in(volume.image.shape) for volume in self.volumes))
        return num_candidates(target) * voxels * self._decoding_seconds / self._decoded_voxels

    def rehearse(self, predictor: Predictor) -> float:
        """Validate one window of the first volume, so that what cannot work fails before training starts.

        Returns the estimated seconds of a whole validation.
        """
        volume = self.volumes[0]
        z, y, x = predictor.window
        corner = slice(z), slice(y), slice(x)
        image = np.asarray(volume.image[corner])
        for _ in range(2):  # the first pass also warms up
            start = time.perf_counter()
            prediction, objects = self._predict(predictor, volume, image)
            self.compare(0, prediction, objects, corner)
        seconds = time.perf_counter() - start
        self._decoding_seconds, self._decoded_voxels = 0.0, 0
        return seconds * self.num_windows(predictor.window)

    def num_windows(self, window: ZYX) -> int:
        """Windows of this size over all volumes."""
        shapes = [volume.image.shape for volume in self.volumes]
        return sum(prod(len(window_starts(*sides)) for sides in zip(shape, window, strict=True)) for shape in shapes)


# --- tuning ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TuningVolume:
    """A validation volume: the network's maps, the true objects (0 where ignored), and the ignored voxels, if any."""

    maps: Maps
    objects: NDArray[np.integer]
    spacing: Spacing
    ignored: NDArray[np.bool_] | None = None

    def block(self, num_voxels: int) -> TuningVolume:
        """A block of about so many voxels, of the shape of the volume, where most objects are."""
        share = (num_voxels / self.objects.size) ** (1 / 3)
        if share >= 1:
            return self
        inside = self.objects > 0
        choices = []
        for size in self.objects.shape:
            length = max(1, round(size * share))
            choices.append([slice(first, first + length) for first in sorted({0, (size - length) // 2, size - length})])
        region = max(product(*choices), key=lambda part: np.count_nonzero(inside[part]))
        ignored = None if self.ignored is None else self.ignored[region]
        return TuningVolume(self.maps[(slice(None), *region)], self.objects[region], self.spacing, ignored)


def limited(volumes: Sequence[TuningVolume], max_voxels: int = MAX_TUNED_VOXELS) -> list[TuningVolume]:
    """As much of the volumes as is decoded for every candidate: blocks of them all, or of as many as it takes."""
    if sum(volume.objects.size for volume in volumes) <= max_voxels:
        return list(volumes)
    count = min(len(volumes), max(1, max_voxels // MIN_BLOCK))
    chosen = np.linspace(0, len(volumes) - 1, count).round().astype(int)
    return [volumes[index].block(max_voxels // count) for index in chosen]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned."""

    threshold: float
    decoding: ObjectDecoding

    def replaced(self, name: str, value: float) -> Setting:
        if name == "threshold":
            return Setting(value, self.decoding)
        return Setting(self.threshold, self.decoding.model_copy(update={name: value}))


@dataclass
class Tuner:
    """Chooses how objects are decoded: the setting that finds most objects of the validation volumes.

    Every candidate is decoded and scored as a user's result would be. The search goes along one parameter after the
    other, coarsely: finer steps would fit the few objects of the validation volumes rather than the cells.
    """

    volumes: Sequence[TuningVolume]
    target: Target
    first: Setting
    methods: Sequence[Method] = ()
    """Those that are tried; all that the network allows, where none are given."""
    best: Setting | None = None
    f1: float = 0.0
    """Of the best, on the volumes it was chosen on."""
    tried: dict[Setting, float] = field(default_factory=dict)
    """The score of each, without a smallest size."""
    _score: float = -1.0

    def run(self) -> Iterator[int]:
        """Search; yields the number of candidates tried so far."""
        for method in self.methods or METHODS[self.target]:
            changes: dict[str, Any] = {"method": method, "seed_level": FIRST_LEVEL, "min_size_um3": 0.0}
            if method != "learned":
                changes |= {"seed_level": 0.0, "depth_weight": 0.0, "boundary_weight": 0.0}
            start = Setting(self.first.threshold, self.first.decoding.model_copy(update=changes))
            self._consider(start)
            if self.tried[start] < self._score - HOPELESS and method != self.first.decoding.method:
                continue
            yield len(self.tried)
            for name, values in CANDIDATES[method]:
                center = start
                if self.best is not None and self.best.decoding.method == method:
                    center = self.best.replaced("min_size_um3", 0.0)
                unit = getattr(start.decoding, name) if name in _RELATIVE else 1.0
                for value in values:
                    self._consider(center.replaced(name, value * unit))
                    yield len(self.tried)

    def _consider(self, setting: Setting) -> None:
        """Score it unless that was done, and keep it where it is the best so far."""
        if setting not in self.tried:
            score, f1, min_size = evaluate(self.volumes, setting)
            self.tried[setting] = score
            if score > self._score + MIN_GAIN:
                self._score, self.f1, self.best = score, f1, setting.replaced("min_size_um3", min_size)


def evaluate(volumes: Sequence[TuningVolume], setting: Setting) -> tuple[float, float, float]:
    """Score and F1 of the setting with the best smallest size, and that size in µm³."""
    rows = []
    for volume in volumes:
        found = decode(volume.maps, setting.threshold, setting.decoding, volume.spacing)
        if volume.ignored is not None:
            found = np.where(volume.ignored, 0, found)
        overlaps = find_overlaps(volume.objects, found)
        best_iou = np.zeros(len(overlaps.predicted))
        np.maximum.at(best_iou, overlaps.predicted_index, overlaps.iou)
        voxel = float(np.prod(volume.spacing))
        rows.append((overlaps.predicted.sizes * voxel, best_iou, overlaps.true.sizes * voxel))
    sizes, ious, true_sizes = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return _best_size(sizes, ious, true_sizes)


def _best_size(
    sizes: NDArray[np.float64], ious: NDArray[np.float64], true_sizes: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Leaving out the smallest objects, one after the other: where is F1 highest? ``ious`` with the best true object.

    The limit stays below the size of all but the smallest of the labelled objects, even if a larger one would gain:
    such a gain would be that of these volumes, and elsewhere cells may be smaller.
    """
    order = np.argsort(sizes)
    sizes, ious = sizes[order], ious[order]
    # entry k: without the k smallest
    left = np.arange(len(sizes), -1, -1)
    total = np.maximum(1, left + len(true_sizes))
    # above one half a match has no rival
    hits, strict = (np.append(np.cumsum((ious > limit)[::-1])[::-1], 0) for limit in (0.5, STRICT_IOU))
    f1 = 2 * hits / total
    score = f1 + STRICT_WEIGHT * 2 * strict / total
    largest = float(np.quantile(true_sizes, MAX_LEFT_OUT)) if len(true_sizes) else np.inf
    score[1:][sizes >= largest] = -1.0  # entry k leaves out the object k - 1
    best = int(np.argmax(score >= score.max() - MIN_GAIN))  # the fewest left out
    if best == 0:
        return float(score[0]), float(f1[0]), 0.0
    kept = min(largest, sizes[best]) if best < len(sizes) else min(largest, 2 * sizes[-1])
    # midway between the largest left out and the smallest kept
    return float(score[best]), float(f1[best]), float(np.sqrt(sizes[best - 1] * kept))


def num_candidates(target: Target) -> int:
    """How many are tried at most."""
    return sum(1 + sum(len(values) for _, values in CANDIDATES[method]) for method in METHODS[target])
