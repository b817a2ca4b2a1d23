"""How good a prediction is: Dice over voxels, F1 over objects. Counts add up, so scores pool exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_celltrain.data.labels import IGNORE


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
        scores = [
            2 * tp / (2 * tp + fp + fn)
            for tp, fp, fn in zip(self.tp, self.fp, self.fn, strict=True)
            if tp + fp + fn > 0
        ]
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
        """2 TP / (2 TP + FP + FN); 1 where there is no object and none was predicted."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0


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
    num_true, true_index = _compact(truth)
    num_predicted, predicted_index = _compact(predicted)
    if num_true == 0 or num_predicted == 0:
        return ObjectCounts(0, num_predicted, num_true)
    true_sizes = np.bincount(true_index.ravel(), minlength=num_true + 1)
    predicted_sizes = np.bincount(predicted_index.ravel(), minlength=num_predicted + 1)
    both = (true_index > 0) & (predicted_index > 0)
    codes, overlap = np.unique(
        true_index[both].astype(np.int64) * (num_predicted + 1) + predicted_index[both], return_counts=True
    )
    rows, columns = np.divmod(codes, num_predicted + 1)
    iou = overlap / (true_sizes[rows] + predicted_sizes[columns] - overlap)
    good = iou >= min_iou
    if not good.any():
        return ObjectCounts(0, num_predicted, num_true)
    matched = _max_matching(rows[good], columns[good], iou[good])
    return ObjectCounts(matched, num_predicted - matched, num_true - matched)


MAX_TABLE = 2**24
"""Largest label value that is renumbered through a table; beyond it through sorting, which is slower."""


def _compact(labels: NDArray[np.integer]) -> tuple[int, NDArray[np.integer]]:
    """The number of objects, and ``labels`` renumbered 1…N in the order of their values."""
    if labels.size == 0:
        return 0, labels
    if labels.min() >= 0 and labels.max() < MAX_TABLE:
        present = np.bincount(labels.ravel()) > 0
        present[0] = False
        table = np.cumsum(present, dtype=np.int32)
        table[~present] = 0
        return int(present.sum()), table[labels]
    values, inverse = np.unique(labels, return_inverse=True)
    table = np.zeros(len(values), np.int32)
    table[values != 0] = np.arange(1, np.count_nonzero(values) + 1)
    return int(np.count_nonzero(values)), table[inverse.reshape(labels.shape)]


def _max_matching(rows: NDArray[np.integer], columns: NDArray[np.integer], iou: NDArray[np.floating]) -> int:
    """Number of pairs in the largest one-to-one matching of the pairs given."""
    if len(np.unique(rows)) == len(rows) and len(np.unique(columns)) == len(columns):
        return len(rows)  # nothing competes, as always above IoU 0.5
    row_ids, row = np.unique(rows, return_inverse=True)
    column_ids, column = np.unique(columns, return_inverse=True)
    score = np.zeros((len(row_ids), len(column_ids)))
    score[row, column] = 1.0 + iou / (2 * min(score.shape))
    chosen = linear_sum_assignment(score, maximize=True)
    return int(np.count_nonzero(score[chosen]))


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
