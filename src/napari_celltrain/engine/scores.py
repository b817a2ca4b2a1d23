"""How good a prediction is: Dice over voxels; F1, average precision, panoptic quality and SEG over objects.

Scores follow from counts, and counts of several volumes add up (``+``), so scores pool exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.data.objects import Overlaps, find_overlaps

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU from which on an object counts as found: 0.5, 0.55 … 0.95, as in the Data Science Bowl 2018."""
UNIQUE_IOU = 0.5
"""Above it an object overlaps at most one other (panoptic quality)."""
MAJORITY = 0.5
"""Share of a labelled object that a predicted one must cover more of than this (SEG)."""


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
        return VoxelCounts(tuple(a + b for a, b in zip(self.classes, other.classes, strict=True)))

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return self._mean("f1")

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN)."""
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
        scores = [attrgetter(score)(counts) for counts in self.classes if not counts.is_empty]
        return float(np.mean(scores)) if scores else 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """The counts of one volume, or of several added up; ``objects`` is None where labels are not objects."""

    voxels: VoxelCounts
    objects: Counts | None = None

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
    codes = (target.astype(np.uint16) * np.uint16(num_classes) + predicted).ravel()
    joint = np.bincount(codes, minlength=num_classes**2)[: num_classes**2]
    return VoxelCounts.of(joint.reshape(num_classes, num_classes))


def connected_components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected components of ``mask`` from 1; voxels touch by their faces."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


def count_objects(truth: NDArray[np.integer], predicted: NDArray[np.integer], min_iou: float = 0.5) -> Counts:
    """Match the objects of two label arrays one to one; a pair counts when its IoU is at least ``min_iou``.

    The matching takes as many pairs as possible and, among these, those that overlap best (Hungarian method), as in the
    object scores of the Data Science Bowl 2018 and of StarDist. Labels need not be consecutive; 0 is background.
    """
    overlaps = find_overlaps(truth, predicted)
    matched = count_matches(overlaps, min_iou)
    return Counts(matched, len(overlaps.predicted) - matched, len(overlaps.true) - matched)


def count_matches(overlaps: Overlaps, min_iou: float) -> int:
    """Number of pairs in the largest one-to-one matching of objects whose IoU is at least ``min_iou``."""
    iou = overlaps.iou
    good = iou >= min_iou
    rows, columns, iou = overlaps.true_index[good], overlaps.predicted_index[good], iou[good]
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


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """Counts of one volume, or of several added up, and the scores that follow from them.

    A ratio of nothing to nothing is 1 where there was no object to find and none was found, else 0.
    """

    num_true: int
    num_predicted: int
    tp: tuple[int, ...]
    """Objects found at each of :data:`THRESHOLDS`."""
    num_unique: int
    """Pairs of IoU above :data:`UNIQUE_IOU`, and the sum of their IoU."""
    unique_iou: float
    seg_sum: float
    """Sum over the labelled objects of the Jaccard index of SEG."""

    def __add__(self, other: ObjectScores) -> ObjectScores:
        return ObjectScores(
            self.num_true + other.num_true,
            self.num_predicted + other.num_predicted,
            tuple(a + b for a, b in zip(self.tp, other.tp, strict=True)),
            self.num_unique + other.num_unique,
            self.unique_iou + other.unique_iou,
            self.seg_sum + other.seg_sum,
        )

    def at(self, threshold: float) -> Counts:
        """TP, FP and FN (with ``f1``, ``precision``, ``recall``, ``average_precision``) at one of the thresholds."""
        return self._counts(self.tp[THRESHOLDS.index(threshold)])

    @property
    def counts(self) -> tuple[Counts, ...]:
        """Those of all :data:`THRESHOLDS`."""
        return tuple(map(self.at, THRESHOLDS))

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
        return self._counts(self.num_unique).f1

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of these pairs."""
        if self.num_unique:
            return self.unique_iou / self.num_unique
        return 1.0 if self._counts(0).is_empty else 0.0

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
        return self.num_predicted - self.num_true

    def _counts(self, tp: int) -> Counts:
        return Counts(tp, self.num_predicted - tp, self.num_true - tp)


def score_objects(overlaps: Overlaps) -> ObjectScores:
    """All scores from the table of which objects share how many voxels."""
    iou = overlaps.iou
    unique = iou > UNIQUE_IOU
    true_sizes = overlaps.true.sizes[overlaps.true_index]
    seg = overlaps.shared > MAJORITY * true_sizes
    return ObjectScores(
        num_true=len(overlaps.true),
        num_predicted=len(overlaps.predicted),
        tp=tuple(count_matches(overlaps, threshold) for threshold in THRESHOLDS),
        num_unique=int(np.count_nonzero(unique)),
        unique_iou=float(iou[unique].sum()),
        seg_sum=float(iou[seg].sum()),
    )
