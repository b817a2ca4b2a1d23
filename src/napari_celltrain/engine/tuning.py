"""Choosing how objects are decoded: the parameters that find most objects of the validation volumes.

Every candidate is decoded and scored as a user's result would be. The search goes along one parameter after the
other, coarsely: finer steps would fit the few objects of the validation volumes rather than the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.data.objects import find_overlaps
from napari_celltrain.engine.objects import Maps, decode
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import FIRST_LEVEL, Method, ObjectDecoding, Target

MAX_VOXELS = 2**24
"""Voxels that are decoded for each candidate: more would cost minutes and tell little more."""
MIN_BLOCK = 2**21
"""Voxels that a volume is cut down to at the least, so that most objects in it are whole."""
MIN_GAIN = 1e-4
"""By how much a score must be better to count as better."""
MAX_LEFT_OUT = 0.05
"""Share of the labelled objects that may be below the smallest size."""
STRICT_IOU = 0.7
STRICT_WEIGHT = 0.1
"""F1 at IoU 0.5 decides; between nearly equal ones, that at 0.7 does."""

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
SMOOTHING = (0.0, 0.4, 0.7, 1.0, 1.3, 1.7)
SEED_DISTANCE = (0.5, 0.75, 1.0, 1.5)
DEPTH_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
BOUNDARY_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
LEVELS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Candidates; smoothing, distance and weight as multiples of what the size of the objects suggests."""


@dataclass(frozen=True, slots=True)
class TuningVolume:
    """A validation volume: the network's maps, the true objects (0 where ignored), and the ignored voxels, if any."""

    maps: Maps
    objects: NDArray[np.integer]
    spacing: Spacing
    ignored: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, maps: Maps, target: NDArray[np.uint8], objects: NDArray[Any], spacing: Spacing) -> TuningVolume:
        """``target`` as of `data.labels.to_target`, ``objects`` as of `data.labels.object_labels`."""
        ignored = target == IGNORE
        return cls(maps, objects, spacing, ignored if ignored.any() else None)

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


def limited(volumes: Sequence[TuningVolume], max_voxels: int = MAX_VOXELS) -> list[TuningVolume]:
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


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best setting and what it reached on the volumes it was chosen on."""

    setting: Setting
    f1: float


@dataclass
class Tuner:
    """Searches; :meth:`run` yields the number of candidates tried, so that whoever waits can be told."""

    volumes: Sequence[TuningVolume]
    target: Target
    first: Setting
    methods: tuple[Method, ...] = ()
    """The ways that are tried; all that the network allows, where none are given."""
    best: Tuned | None = None
    _tried: dict[str, float] = field(default_factory=dict)
    _score: float = -1.0

    @property
    def num_tried(self) -> int:
        return len(self._tried)

    @property
    def num_candidates(self) -> int:
        return num_candidates(self.target)

    def run(self) -> Iterator[int]:
        for method in self.methods or _methods(self.target):
            start = _start(method, self.first)
            if not self._consider(start) and method != self.first.decoding.method and self._is_hopeless(start):
                continue
            yield len(self._tried)
            for axis in _axes(method, start):
                center = self._best_of(method, start)
                for candidate in axis(center):
                    self._consider(candidate)
                    yield len(self._tried)
            for threshold in THRESHOLDS:
                center = self._best_of(method, start)
                self._consider(Setting(threshold, center.decoding))
                yield len(self._tried)

    def _best_of(self, method: Method, start: Setting) -> Setting:
        best = self.best
        return best.setting if best is not None and best.setting.decoding.method == method else start

    def _is_hopeless(self, setting: Setting) -> bool:
        """Far behind the best at its own first guess: not worth the rest of the search."""
        return self._tried[_key(setting)] < self._score - 0.1

    def _consider(self, setting: Setting) -> bool:
        """Score it unless that was done; True where it is the best so far."""
        key = _key(setting)
        if key in self._tried:
            return False
        score, f1, min_size = evaluate(self.volumes, setting)
        self._tried[key] = score
        if score <= self._score + MIN_GAIN:
            return False
        self._score = score
        found = Setting(setting.threshold, setting.decoding.model_copy(update={"min_size_um3": min_size}))
        self.best = Tuned(found, f1)
        return True


def evaluate(volumes: Sequence[TuningVolume], setting: Setting) -> tuple[float, float, float]:
    """Score and F1 of the setting with the best smallest size, and that size in µm³."""
    plain = setting.decoding.model_copy(update={"min_size_um3": 0.0})
    sizes: list[NDArray[Any]] = []
    hits: list[NDArray[np.bool_]] = []
    strict: list[NDArray[np.bool_]] = []
    true_sizes: list[NDArray[Any]] = []
    for volume in volumes:
        found = decode(volume.maps, setting.threshold, plain, volume.spacing)
        if volume.ignored is not None:
            found = np.where(volume.ignored, 0, found)
        overlaps = find_overlaps(volume.objects, found)
        voxel = float(np.prod(volume.spacing))
        true_sizes.append(overlaps.true.sizes * voxel)
        sizes.append(overlaps.predicted.sizes * voxel)
        best_iou = np.zeros(len(overlaps.predicted))
        np.maximum.at(best_iou, overlaps.predicted_index, overlaps.iou)
        hits.append(best_iou > 0.5)  # above one half a match has no rival
        strict.append(best_iou > STRICT_IOU)
    return _best_size(np.concatenate(sizes), np.concatenate(hits), np.concatenate(strict), np.concatenate(true_sizes))


def _best_size(
    sizes: NDArray[np.float64], hits: NDArray[np.bool_], strict: NDArray[np.bool_], true_sizes: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Leaving out the smallest objects, one after the other: where is F1 highest?

    The limit stays below the size of all but the smallest of the labelled objects, even if a larger one would gain:
    such a gain would be that of these volumes, and elsewhere cells may be smaller.
    """
    order = np.argsort(sizes)
    sizes, hits, strict = sizes[order], hits[order], strict[order]
    # entry k: without the k smallest
    left = np.arange(len(sizes), -1, -1)
    total = np.maximum(1, left + len(true_sizes))
    f1 = 2 * _from_end(hits) / total
    score = f1 + STRICT_WEIGHT * 2 * _from_end(strict) / total
    largest = float(np.quantile(true_sizes, MAX_LEFT_OUT)) if len(true_sizes) else np.inf
    score[1:][sizes >= largest] = -1.0  # entry k leaves out the object k - 1
    best = int(np.argmax(score >= score.max() - MIN_GAIN))  # the fewest left out
    if best == 0:
        return float(score[0]), float(f1[0]), 0.0
    kept = min(largest, sizes[best]) if best < len(sizes) else min(largest, 2 * sizes[-1])
    # midway between the largest left out and the smallest kept
    return float(score[best]), float(f1[best]), float(np.sqrt(sizes[best - 1] * kept))


def _from_end(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Entry k: how many of the flags from k on are set."""
    sums: NDArray[np.int64] = np.concatenate([np.cumsum(flags[::-1])[::-1], [0]])
    return sums


def _key(setting: Setting) -> str:
    return f"{setting.threshold} {setting.decoding.model_dump_json(exclude={'min_size_um3'})}"


def num_candidates(target: Target) -> int:
    """How many are tried at most."""
    parameters = len(SMOOTHING) + len(SEED_DISTANCE) + len(THRESHOLDS)
    learned = parameters + len(DEPTH_WEIGHTS) + len(BOUNDARY_WEIGHTS) + len(LEVELS) if target == "objects" else 0
    return learned + parameters + len(THRESHOLDS) + len(_methods(target))


def _methods(target: Target) -> tuple[Method, ...]:
    return ("learned", "watershed", "components") if target == "objects" else ("watershed", "components")


def _start(method: Method, first: Setting) -> Setting:
    levels = {"learned": FIRST_LEVEL, "watershed": 0.0, "components": 0.0}
    changes: dict[str, object] = {"method": method, "seed_level": levels[method]}
    if method != "learned":
        changes |= {"depth_weight": 0.0, "boundary_weight": 0.0}
    return Setting(first.threshold, first.decoding.model_copy(update=changes))


def _axes(method: Method, start: Setting) -> list[Callable[[Setting], list[Setting]]]:
    """The parameters of a method, each as what makes candidates from the best so far."""
    if method == "components":
        return []
    decoding = start.decoding

    def along(name: str, values: Sequence[float]) -> Callable[[Setting], list[Setting]]:
        return lambda center: [
            Setting(center.threshold, center.decoding.model_copy(update={name: value})) for value in values
        ]

    axes = [
        along("smoothing_um", [factor * decoding.smoothing_um for factor in SMOOTHING]),
        along("seed_distance_um", [factor * decoding.seed_distance_um for factor in SEED_DISTANCE]),
    ]
    if method == "watershed":
        return axes
    weights = along("depth_weight", [factor * decoding.depth_weight for factor in DEPTH_WEIGHTS])
    return [weights, along("boundary_weight", BOUNDARY_WEIGHTS), *axes, along("seed_level", LEVELS)]
