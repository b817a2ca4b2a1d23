"""Where a prediction differs from the labels, voxel by voxel and object by object, for eyes rather than for scores."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE

MIN_IOU = 0.5
"""Above this overlap (intersection over union) an object counts as found; above one half, it can be only once."""
MOST = 0.5
"""An object lies in another one where that covers more than this share of it."""
MIN_PIECE = 0.1
"""A piece of a split object covers at least this share of it; smaller ones are specks, not halves."""


class Difference(IntEnum):
    """Values of the arrays made here; 0 is agreement (or a voxel that nobody annotated)."""

    NONE = 0
    MISSED_VOXEL = 1
    FALSE_VOXEL = 2
    WRONG_CLASS = 3
    MISSED_OBJECT = 4
    FALSE_OBJECT = 5
    SPLIT_OBJECT = 6
    MERGED_OBJECTS = 7


DESCRIPTIONS: Mapping[Difference, str] = {
    Difference.NONE: "as labelled",
    Difference.MISSED_VOXEL: "missed: labelled, not predicted",
    Difference.FALSE_VOXEL: "false: predicted, not labelled",
    Difference.WRONG_CLASS: "wrong class",
    Difference.MISSED_OBJECT: "object missed",
    Difference.FALSE_OBJECT: "object that is none",
    Difference.SPLIT_OBJECT: "object split in several",
    Difference.MERGED_OBJECTS: "several objects merged to one",
}


def compare_voxels(target_ZYX: NDArray[np.uint8], predicted_ZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class indices against class indices; voxels whose target is ``IGNORE`` agree with anything."""
    _check(target_ZYX, predicted_ZYX)
    true, found = target_ZYX > 0, predicted_ZYX > 0
    differences = np.zeros(target_ZYX.shape, np.uint8)
    differences[true & ~found] = Difference.MISSED_VOXEL
    differences[~true & found] = Difference.FALSE_VOXEL
    differences[true & found & (target_ZYX != predicted_ZYX)] = Difference.WRONG_CLASS
    differences[target_ZYX == IGNORE] = Difference.NONE
    return differences


class ObjectComparison:
    """Labelled objects against predicted ones, both numbered from 1 with few gaps; 0 is background.

    It goes through the volumes plane by plane: NumPy counts without letting other threads run, and a window may wait.
    """

    def __init__(self, truth_ZYX: NDArray[np.int32], predicted_ZYX: NDArray[np.int32]) -> None:
        _check(truth_ZYX, predicted_ZYX)
        self._truth_ZYX, self._predicted_ZYX = truth_ZYX, predicted_ZYX
        num_truth, num_predicted = int(truth_ZYX.max(initial=0)), int(predicted_ZYX.max(initial=0))
        self._truth_sizes = np.zeros(num_truth + 1, np.int64)
        self._predicted_sizes = np.zeros(num_predicted + 1, np.int64)
        codes, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for true, predicted in zip(truth_ZYX, predicted_ZYX, strict=True):
            self._truth_sizes += np.bincount(true.ravel(), minlength=num_truth + 1)
            self._predicted_sizes += np.bincount(predicted.ravel(), minlength=num_predicted + 1)
            both = (true > 0) & (predicted > 0)
            code, count = np.unique(
                true[both].astype(np.int64) * (num_predicted + 1) + predicted[both], return_counts=True
            )
            codes.append(code)
            counts.append(count)
        pairs, position = np.unique(np.concatenate(codes), return_inverse=True)
        # Each pair of a labelled and a predicted object that share voxels, as three parallel arrays.
        self._shared = np.bincount(position, np.concatenate(counts), len(pairs)).astype(np.int64)
        self._truth, self._predicted = np.divmod(pairs, num_predicted + 1)

    def differences(self) -> NDArray[np.uint8]:
        """What is wrong where, as values of :class:`Difference`.

        A labelled object is found where a predicted one overlaps it with an IoU above :data:`MIN_IOU`, as in the F1 of
        a validation. The others are merged where they lie mostly in a predicted object that holds several, split where
        they hold several predicted ones, and else missed. A predicted object that found none is a piece of a split one,
        or false. Such objects are marked whole; the voxels of all others as by :func:`compare_voxels`.
        """
        of_truth, of_predicted = self._judge()
        differences = np.zeros(self._truth_ZYX.shape, np.uint8)
        for plane, true, predicted in zip(differences, self._truth_ZYX, self._predicted_ZYX, strict=True):
            plane[...] = compare_voxels((true > 0).view(np.uint8), (predicted > 0).view(np.uint8))
            for marks in (of_predicted[predicted], of_truth[true]):
                np.copyto(plane, marks, where=marks > 0)
        return differences

    def matched(self) -> NDArray[np.int32]:
        """The predicted objects renumbered: each labelled one gives its number to that which covers most of it.

        So colours stay from epoch to epoch and agree with the labels; the other predicted objects are numbered beyond.
        """
        table = np.zeros(len(self._predicted_sizes), np.int32)
        taken = np.zeros(len(self._truth_sizes), bool)
        for index in np.argsort(-self._shared, kind="stable"):
            true, predicted = self._truth[index], self._predicted[index]
            if not taken[true] and table[predicted] == 0:
                table[predicted], taken[true] = true, True
        rest = np.flatnonzero(table[1:] == 0) + 1
        table[rest] = len(self._truth_sizes) + np.arange(len(rest), dtype=np.int32)
        numbered = np.empty(self._predicted_ZYX.shape, np.int32)
        for plane, predicted in zip(numbered, self._predicted_ZYX, strict=True):
            plane[...] = table[predicted]
        return numbered

    def _judge(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The mark of every labelled and of every predicted object, by its number; 0 where it needs none."""
        of_truth, of_predicted = self._truth_sizes[self._truth], self._predicted_sizes[self._predicted]
        found = self._shared > MIN_IOU * (of_truth + of_predicted - self._shared)
        truth_found, predicted_found = self._truth_flags(found), self._predicted_flags(found)

        swallowed = self._shared > MOST * of_truth
        merging = np.bincount(self._predicted[swallowed], minlength=len(self._predicted_sizes)) >= 2
        merged = self._truth_flags(swallowed & merging[self._predicted])

        inside = (self._shared > MOST * of_predicted) & (self._shared >= MIN_PIECE * of_truth)
        split = np.bincount(self._truth[inside], minlength=len(self._truth_sizes)) >= 2
        pieces = self._predicted_flags(inside & split[self._truth])

        truth_marks = np.full(len(self._truth_sizes), Difference.MISSED_OBJECT, np.uint8)
        truth_marks[split] = Difference.SPLIT_OBJECT
        truth_marks[merged] = Difference.MERGED_OBJECTS
        truth_marks[truth_found] = Difference.NONE
        predicted_marks = np.full(len(self._predicted_sizes), Difference.FALSE_OBJECT, np.uint8)
        predicted_marks[pieces] = Difference.SPLIT_OBJECT
        predicted_marks[predicted_found | merging] = Difference.NONE
        truth_marks[0] = predicted_marks[0] = Difference.NONE
        return truth_marks, predicted_marks

    def _truth_flags(self, pairs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        flags = np.zeros(len(self._truth_sizes), bool)
        flags[self._truth[pairs]] = True
        return flags

    def _predicted_flags(self, pairs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        flags = np.zeros(len(self._predicted_sizes), bool)
        flags[self._predicted[pairs]] = True
        return flags


def _check(first: NDArray[np.integer], second: NDArray[np.integer]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {first.shape} and {second.shape}")
