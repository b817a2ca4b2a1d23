"""Two arrays of labels gone through together, once and slab by slab, so that large volumes need little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.differences import WrongObject, wrong_objects
from napari_celltrain.data.labels import MAX_CLASSES, distinct_values, whole_numbers
from napari_celltrain.data.overlaps import OverlapCounter, without_ignored
from napari_celltrain.engine.scores import ObjectScores, VoxelCounts, score_objects
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.values.config import LabelKind
from napari_celltrain.values.errors import DataError

Sides = tuple[str, str]
"""What messages call the labels and the prediction."""


@dataclass(frozen=True, slots=True)
class Comparison:
    voxels: VoxelCounts
    objects: ObjectScores | None
    wrong: tuple[WrongObject, ...]


def compare(
    truth_ZYX: LazyArray,
    predicted_ZYX: LazyArray,
    sides: Sides,
    label_kind: LabelKind,
    ignore_value: int | None,
    class_values: Sequence[int],
    tell: Callable[[int, int], None],
) -> Comparison:
    """``tell`` hears of (planes done, planes). Raises :class:`DataError` that begins with one of ``sides``."""
    shape = _same_shape(truth_ZYX, predicted_ZYX, sides)
    classes = _Classes(class_values) if label_kind == "classes" else None
    voxels = np.zeros((2, 2) if classes is None else (classes.count, classes.count), np.int64)
    counter = OverlapCounter()
    for start, slab in slabs(truth_ZYX):
        truth = _whole(slab, sides[0])
        predicted = _whole(np.asarray(predicted_ZYX[start : start + len(slab), :, :]), sides[1])
        if classes is not None:
            voxels += classes.confusion(truth, predicted, ignore_value)
        else:
            truth, predicted = without_ignored(truth, predicted, ignore_value)
            voxels += _confusion(truth > 0, predicted > 0, 2)
        if label_kind == "objects":
            counter.add(start, truth, predicted)
        tell(start + len(slab), shape[0])
    if label_kind != "objects":
        return Comparison(_counts(voxels), None, ())
    overlaps = counter.overlaps()
    return Comparison(_counts(voxels), score_objects(overlaps), wrong_objects(overlaps))


def find_class_values(
    volumes: Iterable[tuple[LazyArray, LazyArray, Sides]], ignore_value: int | None, known: Sequence[int] = ()
) -> tuple[int, ...]:
    """All classes, the background first: it is the smallest value of the labels. Where ``known`` they are those, and
    what else the predictions hold. Raises :class:`DataError` for what cannot be classes."""
    true: set[int] = set(known)
    predicted: set[int] = set()
    for truth, prediction, sides in volumes:
        if not known:
            true |= _values(truth, ignore_value, sides[0])
        predicted |= _values(prediction, None, sides[1])
    if len(true | predicted) > MAX_CLASSES:
        raise DataError(_too_many("All volumes together"))
    background = tuple(known[:1]) or ((min(true),) if true else (0,))
    return (*background, *sorted((true | predicted) - set(background)))


def _values(array: LazyArray, ignore_value: int | None, side: str) -> set[int]:
    try:
        values = distinct_values(array, ignore_value, limit=MAX_CLASSES)
    except DataError:
        raise _fractions(side) from None
    if len(values) > MAX_CLASSES:
        raise DataError(_too_many(side))
    return values


def _too_many(side: str) -> str:
    return (
        f"{side}: more than {MAX_CLASSES} different values, so these look like objects, not classes. "
        "Compare them as label kind objects."
    )


class _Classes:
    """Turns label values to indices of classes; the first value is index 0, the background."""

    def __init__(self, values: Sequence[int]) -> None:
        self.count = len(values)
        self._order = np.argsort(np.array(values, np.int64))
        self._sorted = np.array(values, np.int64)[self._order]

    def confusion(self, truth: NDArray[Any], predicted: NDArray[Any], ignore_value: int | None) -> NDArray[np.int64]:
        if ignore_value is not None:
            count = truth != ignore_value
            truth, predicted = truth[count], predicted[count]
        return _confusion(self._index(truth), self._index(predicted), self.count)

    def _index(self, values: NDArray[Any]) -> NDArray[np.int64]:
        return np.asarray(self._order[np.searchsorted(self._sorted, values)])


def _confusion(truth: NDArray[Any], predicted: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(count, count): voxels by true and predicted class."""
    codes = truth.astype(np.uint16) * np.uint16(count) + predicted.astype(np.uint16)
    return np.bincount(codes.ravel(), minlength=count * count).reshape(count, count)


def _counts(confusion: NDArray[np.int64]) -> VoxelCounts:
    """Of all classes but the first."""
    right = np.diagonal(confusion)
    found = confusion.sum(axis=0) - right
    missed = confusion.sum(axis=1) - right
    tp, fp, fn = (tuple(int(number) for number in numbers[1:]) for numbers in (right, found, missed))
    return VoxelCounts(tp, fp, fn)


def _same_shape(truth: LazyArray, predicted: LazyArray, sides: Sides) -> tuple[int, ...]:
    shape, other = tuple(truth.shape), tuple(predicted.shape)
    if len(shape) != 3:
        raise DataError(f"{sides[0]}: has {len(shape)} axes, and a volume has 3 (z, y, x).")
    if shape != other:
        raise DataError(
            f"{sides[1]}: has {_voxels(other)} voxels, but {sides[0]} {_voxels(shape)}. They can only be compared "
            "voxel by voxel; give the prediction of the same volume."
        )
    return shape


def _voxels(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _whole(slab: NDArray[Any], side: str) -> NDArray[Any]:
    try:
        return whole_numbers(slab)
    except DataError:
        raise _fractions(side) from None


def _fractions(side: str) -> DataError:
    return DataError(
        f"{side}: holds fractions, where each voxel needs a whole number. Give labels, not intensities or "
        "probabilities."
    )
