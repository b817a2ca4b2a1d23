"""How good a prediction is: Dice over voxels; F1, average precision, panoptic quality and SEG over objects.

Scores follow from counts, and counts of several volumes add up (``+``), so scores pool exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from napari_celltrain.data.objects import Overlaps, find_overlaps, refuse_other_shape

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU from which on an object counts as found: 0.5, 0.55 … 0.95, as in the Data Science Bowl 2018."""
UNIQUE_IOU = 0.5  # above it an object overlaps at most one other (panoptic quality)
MAJORITY = 0.5  # share of a labelled object that a predicted one must cover more of than this (SEG)


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects, or the voxels of one class: found (``tp``), false (``fp``) and missed (``fn``).

    All scores are 1 where there is nothing to find and nothing was found; otherwise 0 of nothing is 0.
    """

    tp: int
    fp: int
    fn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def is_empty(self) -> bool:
        return not (self.tp or self.fp or self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); of voxels it is called Dice."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), called so by the Data Science Bowl 2018, StarDist and Cellpose; of voxels, the IoU."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    def _ratio(self, part: int, whole: int) -> float:
        return 1.0 if self.is_empty else part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class VoxelCounts:
    """The counts of each foreground class. Scores are means over the classes that occur, and 1 where none does."""

    classes: tuple[Counts, ...]

    @classmethod
    def of(cls, confusion: NDArray[np.integer]) -> VoxelCounts:
        """From (classes, classes) voxels by true and predicted class; the first class is the background."""
        right = np.diagonal(confusion)
        false, missed = confusion.sum(axis=0) - right, confusion.sum(axis=1) - right
        return cls(tuple(Counts(*map(int, numbers)) for numbers in zip(right, false, missed, strict=True))[1:])

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(tuple(map(add, self.classes, other.classes)))

    @property
    def dice(self) -> float:
        return self._mean("f1")

    @property
    def iou(self) -> float:
        return self._mean("average_precision")

    @property
    def precision(self) -> float:
        return self._mean("precision")

    @property
    def recall(self) -> float:
        return self._mean("recall")

    def of_class(self, index: int) -> VoxelCounts:
        """The counts of one foreground class alone."""
        return VoxelCounts((self.classes[index],))

    def _mean(self, score: str) -> float:
        scores = [getattr(counts, score) for counts in self.classes if not counts.is_empty]
        return float(np.mean(scores)) if scores else 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """The counts of one volume, or of several added up; ``objects`` is None where labels are not objects."""

    voxels: VoxelCounts
    objects: Counts | None = None

    def __add__(self, other: Score) -> Score:
        objects = None if self.objects is None or other.objects is None else self.objects + other.objects
        return Score(self.voxels + other.voxels, objects)

    @property
    def dice(self) -> float:
        return self.voxels.dice

    @property
    def f1(self) -> float | None:
        return None if self.objects is None else self.objects.f1


def count_voxels(target: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int) -> VoxelCounts:
    """Compare two arrays of class indices (0 is background), leaving out voxels where ``target`` is 255 (ignored).

    ``num_classes`` counts the background: 2 for foreground and background.
    """
    refuse_other_shape(target, predicted)
    # one pass: a joint histogram of (true, predicted) pairs; ignored voxels fall into rows that are cut off
    codes = (target.astype(np.uint16) * np.uint16(num_classes) + predicted).ravel()
    joint = np.bincount(codes, minlength=num_classes**2)[: num_classes**2]
    return VoxelCounts.of(joint.reshape(num_classes, num_classes))


def count_objects(truth: NDArray[np.integer], predicted: NDArray[np.integer], min_iou: float = 0.5) -> Counts:
    """Match the objects of two label arrays one to one; a pair counts when its IoU is at least ``min_iou``.

    The matching takes as many pairs as possible and, among these, those that overlap best (Hungarian method), as in the
    object scores of the Data Science Bowl 2018 and of StarDist. Labels need not be consecutive; 0 is background.
    """
    return count_matches(find_overlaps(truth, predicted), min_iou)


def count_matches(overlaps: Overlaps, min_iou: float) -> Counts:
    """As :func:`count_objects`, from the table of which objects share how many voxels."""
    iou = overlaps.iou
    good = iou >= min_iou
    rows, columns, iou = overlaps.true_index[good], overlaps.predicted_index[good], iou[good]
    rivals = (np.bincount(rows)[rows] > 1) | (np.bincount(columns)[columns] > 1)
    found = int(np.count_nonzero(~rivals))  # nothing competes with these; above IoU 0.5 that is all of them
    if rivals.any():
        row_ids, row = np.unique(rows[rivals], return_inverse=True)
        column_ids, column = np.unique(columns[rivals], return_inverse=True)
        score = np.zeros((len(row_ids), len(column_ids)))
        score[row, column] = 1.0 + iou[rivals] / (2 * min(score.shape))
        found += int(np.count_nonzero(score[linear_sum_assignment(score, maximize=True)]))
    return Counts(found, len(overlaps.predicted) - found, len(overlaps.true) - found)


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """Counts of one volume, or of several added up, and the scores that follow from them.

    A ratio of nothing to nothing is 1 where there was no object to find and none was found, else 0.
    """

    counts: tuple[Counts, ...]
    """At each of :data:`THRESHOLDS`."""
    unique: Counts
    """Of the pairs of IoU above :data:`UNIQUE_IOU`."""
    unique_iou: float
    """Sum of the IoU of these pairs."""
    seg_sum: float
    """Sum over the labelled objects of the Jaccard index of SEG."""

    def __add__(self, other: ObjectScores) -> ObjectScores:
        counts = tuple(map(add, self.counts, other.counts))
        unique = self.unique + other.unique
        return ObjectScores(counts, unique, self.unique_iou + other.unique_iou, self.seg_sum + other.seg_sum)

    def at(self, threshold: float) -> Counts:
        """TP, FP and FN (with ``f1``, ``precision``, ``recall``, ``average_precision``) at one of the thresholds."""
        return self.counts[THRESHOLDS.index(threshold)]

    @property
    def num_true(self) -> int:
        return self.unique.tp + self.unique.fn

    @property
    def num_predicted(self) -> int:
        return self.unique.tp + self.unique.fp

    @property
    def f1(self) -> float:
        """At IoU 0.5."""
        return self.at(0.5).f1

    @property
    def mean_average_precision(self) -> float:
        """TP / (TP + FP + FN), averaged over :data:`THRESHOLDS`."""
        return float(np.mean([counts.average_precision for counts in self.counts]))

    @property
    def recognition_quality(self) -> float:
        """F1 of the pairs of IoU above one half."""
        return self.unique.f1

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of these pairs."""
        return self.unique_iou / self.unique.tp if self.unique.tp else float(self.unique.is_empty)

    @property
    def panoptic_quality(self) -> float:
        return self.segmentation_quality * self.recognition_quality

    @property
    def seg(self) -> float | None:
        """None where there is no labelled object, which SEG is a mean over."""
        return self.seg_sum / self.num_true if self.num_true else None

    @property
    def count_error(self) -> int:
        """How many objects too many; negative where there are too few."""
        return self.unique.fp - self.unique.fn


def score_objects(overlaps: Overlaps) -> ObjectScores:
    """All scores from the table of which objects share how many voxels."""
    iou = overlaps.iou
    unique = iou > UNIQUE_IOU
    found = int(np.count_nonzero(unique))
    covered = overlaps.shared > MAJORITY * overlaps.true.sizes[overlaps.true_index]
    return ObjectScores(
        tuple(count_matches(overlaps, threshold) for threshold in THRESHOLDS),
        Counts(found, len(overlaps.predicted) - found, len(overlaps.true) - found),
        float(iou[unique].sum()),
        float(iou[covered].sum()),
    )
