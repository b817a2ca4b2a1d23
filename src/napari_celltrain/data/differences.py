"""Where a prediction differs from the labels, voxel by voxel and object by object, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE, whole_numbers
from napari_celltrain.data.objects import Overlaps, add_overlaps, overlaps_in, refuse_other_shape, without_ignored
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.values.config import ZYX

MIN_IOU = 0.5
"""Above this overlap (intersection over union) an object counts as found; above one half, it can be only once."""
MOST = 0.5
"""An object lies in another one where that covers more than this share of it."""
MIN_PIECE = 0.1
"""A piece of a split object covers at least this share of it; smaller ones are specks, not halves."""


class Difference(IntEnum):
    """Values of the arrays made here; 0 is agreement (or a voxel that nobody annotated)."""

    description: str

    def __new__(cls, value: int, description: str = "") -> Difference:
        member = int.__new__(cls, value)
        member._value_, member.description = value, description
        return member

    NONE = 0, "as labelled"
    MISSED_VOXEL = 1, "missed: labelled, not predicted"
    FALSE_VOXEL = 2, "false: predicted, not labelled"
    WRONG_CLASS = 3, "wrong class"
    MISSED_OBJECT = 4, "object missed"
    FALSE_OBJECT = 5, "false object"
    SPLIT_OBJECT = 6, "object split in several"
    MERGED_OBJECTS = 7, "several objects merged into one"


def compare_voxels(target_ZYX: NDArray[np.uint8], predicted_ZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class indices against class indices; voxels whose target is ``IGNORE`` agree with anything."""
    refuse_other_shape(target_ZYX, predicted_ZYX)
    true, found = target_ZYX > 0, predicted_ZYX > 0
    differences = np.zeros(target_ZYX.shape, np.uint8)
    differences[true & ~found] = Difference.MISSED_VOXEL
    differences[~true & found] = Difference.FALSE_VOXEL
    differences[true & found & (target_ZYX != predicted_ZYX)] = Difference.WRONG_CLASS
    differences[target_ZYX == IGNORE] = Difference.NONE
    return differences


@dataclass(frozen=True, slots=True)
class WrongObject:
    """An object that is not as it should be: one to look at."""

    kind: Difference
    """``MISSED_OBJECT``, ``FALSE_OBJECT``, ``SPLIT_OBJECT`` or ``MERGED_OBJECTS``."""
    side: Literal["labels", "prediction"]
    """Which volume it is an object of: missed and merged ones of the labels, false ones of the prediction; of a split
    one both the whole (labels) and the pieces that are no match (prediction)."""
    label: int
    """Its value there."""
    centre_zyx: tuple[float, float, float]
    """Mean position of its voxels, in voxels; it may lie outside a hollow or bent object."""
    start_zyx: ZYX
    """First voxel of its bounding box."""
    stop_zyx: ZYX
    """Behind the last voxel of its bounding box."""
    num_voxels: int
    best_iou: float
    """Largest overlap with an object of the other side."""
    partners: tuple[int, ...]
    """Labels of the objects of the other side that share voxels with it, the largest share first."""


def judge(overlaps: Overlaps) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The mark of every labelled and of every predicted object, by its row; 0 where it needs none.

    A labelled object is found where a predicted one overlaps it with an IoU above :data:`MIN_IOU`, as in the F1 of a
    validation. The others are merged where they lie mostly in a predicted object that holds several, split where they
    hold several predicted ones, and else missed. A predicted object that found none is a piece of a split one, or
    false, unless several were merged into it.
    """
    true, predicted, shared = overlaps.true_index, overlaps.predicted_index, overlaps.shared
    of_truth, of_predicted = overlaps.true.sizes[true], overlaps.predicted.sizes[predicted]
    found = shared > MIN_IOU * (of_truth + of_predicted - shared)

    swallowed = shared > MOST * of_truth
    merging = np.bincount(predicted[swallowed], minlength=len(overlaps.predicted)) >= 2

    inside = (shared > MOST * of_predicted) & (shared >= MIN_PIECE * of_truth)
    split = np.bincount(true[inside], minlength=len(overlaps.true)) >= 2

    truth_marks = np.full(len(overlaps.true), Difference.MISSED_OBJECT, np.uint8)
    truth_marks[split] = Difference.SPLIT_OBJECT
    truth_marks[true[swallowed & merging[predicted]]] = Difference.MERGED_OBJECTS
    truth_marks[true[found]] = Difference.NONE
    predicted_marks = np.full(len(overlaps.predicted), Difference.FALSE_OBJECT, np.uint8)
    predicted_marks[predicted[inside & split[true]]] = Difference.SPLIT_OBJECT
    predicted_marks[predicted[found]] = Difference.NONE
    predicted_marks[merging] = Difference.NONE
    return truth_marks, predicted_marks


def wrong_objects(overlaps: Overlaps) -> tuple[WrongObject, ...]:
    """All objects that :func:`judge` marks, the largest first."""
    truth_marks, predicted_marks = judge(overlaps)
    swapped = Overlaps(
        overlaps.predicted, overlaps.true, overlaps.predicted_index, overlaps.true_index, overlaps.shared
    )
    found = [*_wrong_of(overlaps, truth_marks, "labels"), *_wrong_of(swapped, predicted_marks, "prediction")]
    return tuple(sorted(found, key=lambda each: (-each.num_voxels, each.side, each.label)))


def mark_wrong(
    truth_ZYX: LazyArray, predicted_ZYX: LazyArray, wrong: Sequence[WrongObject], ignore_value: int | None = None
) -> NDArray[np.uint8]:
    """The objects of ``wrong`` as values of :class:`Difference`, marked whole; all other voxels are 0."""
    marks = np.zeros(tuple(truth_ZYX.shape), np.uint8)
    tables = []
    for side in ("prediction", "labels"):
        pairs = sorted((each.label, int(each.kind)) for each in wrong if each.side == side)
        tables.append(np.array(pairs, np.int64).reshape(-1, 2).T)
    for start, truth in slabs(truth_ZYX):
        stop = start + len(truth)
        predicted = np.asarray(predicted_ZYX[start:stop, :, :])
        true, predicted = without_ignored(whole_numbers(truth), whole_numbers(predicted), ignore_value)
        for (labels, kinds), values in zip(tables, (predicted, true), strict=True):
            if len(labels):
                place = np.minimum(np.searchsorted(labels, values), len(labels) - 1)
                np.copyto(marks[start:stop], kinds[place].astype(np.uint8), where=labels[place] == values)
    return marks


class ObjectComparison:
    """Labelled objects against predicted ones, both numbered from 1 with few gaps; 0 is background.

    It goes through the volumes plane by plane: NumPy counts without letting other threads run, and a window may wait.
    """

    def __init__(self, truth_ZYX: NDArray[np.int32], predicted_ZYX: NDArray[np.int32]) -> None:
        refuse_other_shape(truth_ZYX, predicted_ZYX)
        self._truth_ZYX, self._predicted_ZYX = truth_ZYX, predicted_ZYX
        planes = enumerate(zip(truth_ZYX, predicted_ZYX, strict=True))
        self._overlaps = add_overlaps([overlaps_in(z, true[None], predicted[None]) for z, (true, predicted) in planes])

    def differences(self) -> NDArray[np.uint8]:
        """What is wrong where, as values of :class:`Difference`: what :func:`judge` marks is marked whole; the voxels
        of all other objects as by :func:`compare_voxels`."""
        by_label = []
        for table, marks in zip((self._overlaps.true, self._overlaps.predicted), judge(self._overlaps), strict=True):
            by_label.append(np.zeros(table.labels.max(initial=0) + 1, np.uint8))
            by_label[-1][table.labels] = marks
        differences = np.zeros(self._truth_ZYX.shape, np.uint8)
        for plane, true, predicted in zip(differences, self._truth_ZYX, self._predicted_ZYX, strict=True):
            plane[...] = compare_voxels((true > 0).view(np.uint8), (predicted > 0).view(np.uint8))
            for marks in (by_label[1][predicted], by_label[0][true]):
                np.copyto(plane, marks, where=marks > 0)
        return differences

    def matched(self) -> NDArray[np.int32]:
        """The predicted objects renumbered: each labelled one gives its number to that which covers most of it.

        So colours stay from epoch to epoch and agree with the labels; the other predicted objects are numbered beyond.
        """
        table = np.zeros(self._overlaps.predicted.labels.max(initial=0) + 1, np.int32)
        taken = np.zeros(self._overlaps.true.labels.max(initial=0) + 1, bool)
        true_labels = self._overlaps.true.labels[self._overlaps.true_index]
        predicted_labels = self._overlaps.predicted.labels[self._overlaps.predicted_index]
        for index in np.argsort(-self._overlaps.shared, kind="stable"):
            true, predicted = true_labels[index], predicted_labels[index]
            if not taken[true] and table[predicted] == 0:
                table[predicted], taken[true] = true, True
        rest = np.flatnonzero(table[1:] == 0) + 1
        table[rest] = len(taken) + np.arange(len(rest), dtype=np.int32)
        numbered = np.empty(self._predicted_ZYX.shape, np.int32)
        for plane, predicted in zip(numbered, self._predicted_ZYX, strict=True):
            plane[...] = table[predicted]
        return numbered


def _wrong_of(
    overlaps: Overlaps, marks: NDArray[np.uint8], side: Literal["labels", "prediction"]
) -> Iterator[WrongObject]:
    """Those of ``overlaps.true``, which for the prediction holds the predicted objects."""
    iou = overlaps.iou
    by_share = np.lexsort((-overlaps.shared, overlaps.true_index))
    rows = overlaps.true_index[by_share]
    for row in np.flatnonzero(marks):
        pairs = by_share[np.searchsorted(rows, row) : np.searchsorted(rows, row, side="right")]
        yield WrongObject(
            kind=Difference(marks[row]),
            side=side,
            label=int(overlaps.true.labels.view(np.uint64)[row]),
            centre_zyx=tuple(overlaps.true.centres[row].tolist()),
            start_zyx=zyx(overlaps.true.starts[row]),
            stop_zyx=zyx(overlaps.true.stops[row]),
            num_voxels=int(overlaps.true.sizes[row]),
            best_iou=float(iou[pairs].max(initial=0.0)),
            partners=tuple(map(int, overlaps.predicted.labels.view(np.uint64)[overlaps.predicted_index[pairs]])),
        )
