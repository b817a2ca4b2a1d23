"""How good a prediction is: Dice over voxels, F1 over objects. Counts add up, so scores pool exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.data.overlaps import Overlaps, find_overlaps


def ratio(part: float, whole: float) -> float:
    """``part`` of ``whole``, and 0 of nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class VoxelCounts:
    """Voxels of each foreground class: predicted and true (``tp``), only predicted, only true."""

    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(
            tuple(a + b for a, b in zip(self.tp, other.tp, strict=True)),
            tuple(a + b for a, b in zip(self.fp, other.fp, strict=True)),
            tuple(a + b for a, b in zip(self.fn, other.fn, strict=True)),
        )

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN), averaged over the classes that occur; 1 where there is nothing to find
        and nothing was found."""
        return self._mean(lambda tp, fp, fn: ratio(2 * tp, 2 * tp + fp + fn))

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), averaged as the Dice."""
        return self._mean(lambda tp, fp, fn: ratio(tp, tp + fp + fn))

    @property
    def precision(self) -> float:
        """TP / (TP + FP), averaged as the Dice; 0 for a class that was never predicted."""
        return self._mean(lambda tp, fp, fn: ratio(tp, tp + fp))

    @property
    def recall(self) -> float:
        """TP / (TP + FN), averaged as the Dice; 0 for a class that is nowhere but was predicted."""
        return self._mean(lambda tp, fp, fn: ratio(tp, tp + fn))

    def of_class(self, index: int) -> VoxelCounts:
        """The counts of one foreground class alone."""
        return VoxelCounts((self.tp[index],), (self.fp[index],), (self.fn[index],))

    def _mean(self, score: Callable[[int, int, int], float]) -> float:
        counts = zip(self.tp, self.fp, self.fn, strict=True)
        scores = [score(tp, fp, fn) for tp, fp, fn in counts if tp + fp + fn > 0]
        return float(np.mean(scores)) if scores else 1.0


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """Objects found (``tp``), invented (``fp``) and missed (``fn``)."""

    tp: int
    fp: int
    fn: int

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); as the other scores 1 where there is no object and none was predicted."""
        return self._score(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP); 0 where none was predicted of those that there are."""
        return self._score(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); 0 where some were predicted and there are none."""
        return self._score(self.tp, self.tp + self.fn)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), which the Data Science Bowl 2018, StarDist and Cellpose call so."""
        return self._score(self.tp, self.tp + self.fp + self.fn)

    def _score(self, part: int, whole: int) -> float:
        return ratio(part, whole) if self.tp + self.fp + self.fn else 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """The counts of one volume, or of several added up; ``objects`` is None where labels are not objects."""

    voxels: VoxelCounts
    objects: ObjectCounts | None = field(default=None)

    def __add__(self, other: Score) -> Score:
        objects = None
        if self.objects is not None and other.objects is not None:
            objects = self.objects + other.objects
        return Score(self.voxels + other.voxels, objects)

    @property
    def dice(self) -> float:
        return self.voxels.dice

    @property
    def f1(self) -> float | None:
        return None if self.objects is None else self.objects.f1


def count_voxels(target: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int) -> VoxelCounts:
    """Compare two arrays of class indices (0 is background), leaving out voxels where ``target`` is ``IGNORE``.

    ``num_classes`` counts the background: 2 for foreground and background.
    """
    if target.shape != predicted.shape:
        raise ValueError(f"shapes differ: {target.shape} and {predicted.shape}")
    # one pass: a joint histogram of (true, predicted) pairs; ignored voxels fall into rows that are cut off
    joint = np.bincount(
        (target.astype(np.uint16) * np.uint16(num_classes) + predicted).ravel(),
        minlength=num_classes * num_classes,
    )[: num_classes * num_classes].reshape(num_classes, num_classes)
    diagonal = np.diagonal(joint)
    counted = range(1, num_classes)
    return VoxelCounts(
        tuple(int(diagonal[c]) for c in counted),
        tuple(int(joint[:, c].sum() - diagonal[c]) for c in counted),
        tuple(int(joint[c].sum() - diagonal[c]) for c in counted),
    )


def connected_components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected pieces of ``mask`` from 1; voxels touch by their faces."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


def count_objects(truth: NDArray[np.integer], predicted: NDArray[np.integer], min_iou: float = 0.5) -> ObjectCounts:
    """Match the objects of two label arrays one to one; a pair counts when its IoU is at least ``min_iou``.

    The matching takes as many pairs as possible and, among these, those that overlap best (Hungarian method), as in the
    object scores of the Data Science Bowl 2018 and of StarDist. Labels need not be consecutive; 0 is background.
    """
    overlaps = find_overlaps(truth, predicted)
    matched = count_matches(overlaps, min_iou)
    return ObjectCounts(matched, len(overlaps.predicted) - matched, len(overlaps.true) - matched)


def count_matches(overlaps: Overlaps, min_iou: float) -> int:
    """Number of pairs in the largest one-to-one matching of objects whose IoU is at least ``min_iou``."""
    iou = overlaps.iou
    good = iou >= min_iou
    return _max_matching(overlaps.true_index[good], overlaps.predicted_index[good], iou[good])


def _max_matching(rows: NDArray[np.integer], columns: NDArray[np.integer], iou: NDArray[np.floating]) -> int:
    """Number of pairs in the largest one-to-one matching of the pairs given."""
    rivals = (np.bincount(rows)[rows] > 1) | (np.bincount(columns)[columns] > 1) if len(rows) else rows > 0
    alone = int(np.count_nonzero(~rivals))  # nothing competes with these; above IoU 0.5 that is all of them
    if alone == len(rows):
        return alone
    row_ids, row = np.unique(rows[rivals], return_inverse=True)
    column_ids, column = np.unique(columns[rivals], return_inverse=True)
    score = np.zeros((len(row_ids), len(column_ids)))
    score[row, column] = 1.0 + iou[rivals] / (2 * min(score.shape))
    chosen = linear_sum_assignment(score, maximize=True)
    return alone + int(np.count_nonzero(score[chosen]))


def score_volume(
    target: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    num_classes: int,
    true_objects: NDArray[np.integer] | None = None,
    predicted_objects: NDArray[np.integer] | None = None,
) -> Score:
    """All counts of one volume: ``target`` and ``predicted`` hold class indices.

    With ``true_objects`` (instance labels), ``predicted_objects`` are matched to them, by default the connected
    components of the foreground. Ignored voxels belong to no object on either side.
    """
    voxels = count_voxels(target, predicted, num_classes)
    if true_objects is None:
        return Score(voxels)
    ignored = target == IGNORE
    if predicted_objects is None:
        predicted_objects = connected_components((predicted > 0) & ~ignored)
    if ignored.any():
        true_objects = np.where(ignored, 0, true_objects)
        predicted_objects = np.where(ignored, 0, predicted_objects)
    return Score(voxels, count_objects(true_objects, predicted_objects))
