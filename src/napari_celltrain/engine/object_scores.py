"""Scores of objects at several overlaps: F1, average precision, panoptic quality, SEG. Counts add up, so they pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_celltrain.data.overlaps import Overlaps
from napari_celltrain.engine.metrics import ObjectCounts, count_matches

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU from which on an object counts as found: 0.5, 0.55 … 0.95, as in the Data Science Bowl 2018."""
UNIQUE_IOU = 0.5
"""Above it an object overlaps at most one other (panoptic quality)."""
MAJORITY = 0.5
"""Share of a labelled object that a predicted one must cover more of than this (SEG)."""


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

    def at(self, threshold: float) -> ObjectCounts:
        """TP, FP and FN (with ``f1``, ``precision``, ``recall``, ``average_precision``) at one of the thresholds."""
        tp = self.tp[THRESHOLDS.index(threshold)]
        return ObjectCounts(tp, self.num_predicted - tp, self.num_true - tp)

    @property
    def counts(self) -> tuple[ObjectCounts, ...]:
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
        unique = self.num_unique
        return ObjectCounts(unique, self.num_predicted - unique, self.num_true - unique).f1

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of these pairs."""
        if self.num_unique:
            return self.unique_iou / self.num_unique
        return 1.0 if self.is_empty else 0.0

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

    @property
    def is_empty(self) -> bool:
        return self.num_true == 0 and self.num_predicted == 0


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
