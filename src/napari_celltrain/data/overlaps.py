"""Which labelled and which predicted objects share how many voxels: one pass, slab by slab, over both volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import whole_numbers
from napari_celltrain.io.volume import LazyArray, slabs

# Label values up to here are renumbered by a table, larger ones by sorting, which is slower.
_MAX_TABLE = 2**24
# Pairs of objects that a slab may hold for them to be count by a table, not by sorting.
_MAX_PAIR_TABLE = 2**22


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """Every object of a volume, by ascending label: all arrays have one row for each."""

    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Voxels."""
    starts: NDArray[np.int64]
    """(N, 3): first voxel of the bounding box along z, y and x."""
    stops: NDArray[np.int64]
    """(N, 3): behind its last voxel."""
    centres: NDArray[np.float64]
    """(N, 3): mean position of its voxels along z, y and x; a voxel's own is that of its index."""

    def __len__(self) -> int:
        return len(self.labels)

    def box(self, index: int) -> tuple[slice, slice, slice]:
        z, y, x = (slice(int(a), int(b)) for a, b in zip(self.starts[index], self.stops[index], strict=True))
        return z, y, x


@dataclass(frozen=True, slots=True)
class Overlaps:
    """The objects of both sides, and each pair of them that shares voxels as a row of three parallel arrays."""

    true: ObjectTable
    predicted: ObjectTable
    true_index: NDArray[np.int64]
    """Row in ``true``; pairs are sorted by it, then by ``predicted_index``."""
    predicted_index: NDArray[np.int64]
    """Row in ``predicted``."""
    shared: NDArray[np.int64]
    """Voxels in both."""

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair."""
        union = self.true.sizes[self.true_index] + self.predicted.sizes[self.predicted_index] - self.shared
        return np.asarray(self.shared / union, np.float64)


def find_overlaps(truth_ZYX: LazyArray, predicted_ZYX: LazyArray) -> Overlaps:
    """Labels may be any whole numbers; 0 and negative ones are background. Raises ``ValueError`` for other shapes."""
    if tuple(truth_ZYX.shape) != tuple(predicted_ZYX.shape):
        raise ValueError(f"shapes differ: {tuple(truth_ZYX.shape)} and {tuple(predicted_ZYX.shape)}")
    counter = OverlapCounter()
    for start, truth in slabs(truth_ZYX):
        predicted = np.asarray(predicted_ZYX[start : start + len(truth), :, :])
        counter.add(start, whole_numbers(truth), whole_numbers(predicted))
    return counter.overlaps()


def find_objects(labels_ZYX: LazyArray) -> ObjectTable:
    """All objects of one volume; 0 and negative labels are background."""
    counter = _TableCounter()
    for start, slab in slabs(labels_ZYX):
        counter.add(start, *renumber(whole_numbers(slab)))
    return counter.table()


def without_ignored(
    truth: NDArray[Any], predicted: NDArray[Any], ignore_value: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both with 0 where the truth is ``ignore_value``."""
    if ignore_value is None:
        return truth, predicted
    ignored = truth == ignore_value
    if not ignored.any():
        return truth, predicted
    return np.where(ignored, truth.dtype.type(0), truth), np.where(ignored, predicted.dtype.type(0), predicted)


def renumber(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The label values above 0 that occur, ascending, and ``labels`` as 1 + their place in these; else 0."""
    if labels.size == 0:
        return np.zeros(0, np.int64), labels.astype(np.int32)
    if labels.min() < 0:
        labels = np.maximum(labels, 0)
    if labels.max() < _MAX_TABLE:
        present = np.bincount(labels.ravel().astype(np.int64, copy=False)) > 0
        present[0] = False
        table = np.cumsum(present, dtype=np.int32)
        table[~present] = 0
        return np.flatnonzero(present).astype(np.int64), table[labels]
    values, inverse = np.unique(labels, return_inverse=True)
    first = int(values[0] != 0)
    return values[1 - first :].astype(np.int64), (inverse.reshape(labels.shape) + first).astype(np.int32)


class OverlapCounter:
    """Gathers :class:`Overlaps` from slabs of both volumes, given in any pieces along z."""

    def __init__(self) -> None:
        self._true, self._predicted = _TableCounter(), _TableCounter()
        self._parts: list[NDArray[np.int64]] = []

    def add(self, first_plane: int, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        true_labels, true = renumber(truth)
        predicted_labels, found = renumber(predicted)
        self._true.add(first_plane, true_labels, true)
        self._predicted.add(first_plane, predicted_labels, found)
        rows, columns, shared = _count_pairs(true, found, len(true_labels), len(predicted_labels))
        self._parts.append(np.stack([true_labels[rows], predicted_labels[columns], shared]))

    def overlaps(self) -> Overlaps:
        true, predicted = self._true.table(), self._predicted.table()
        parts = np.concatenate(self._parts, axis=1) if self._parts else np.zeros((3, 0), np.int64)
        rows = np.searchsorted(true.labels, parts[0])
        codes = rows * (len(predicted) + 1) + np.searchsorted(predicted.labels, parts[1])
        pairs, position = np.unique(codes, return_inverse=True)
        shared = np.zeros(len(pairs), np.int64)
        np.add.at(shared, position, parts[2])
        true_index, predicted_index = np.divmod(pairs, len(predicted) + 1)
        return Overlaps(true, predicted, true_index, predicted_index, shared)


def _count_pairs(
    true: NDArray[np.int32], predicted: NDArray[np.int32], num_true: int, num_predicted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, columns (from 0) and voxels of the pairs that share some; objects are numbered from 1."""
    both = (true > 0) & (predicted > 0)
    codes = (true[both].astype(np.int64) - 1) * num_predicted + (predicted[both] - 1)
    if num_true * num_predicted <= _MAX_PAIR_TABLE:
        counts = np.bincount(codes, minlength=num_true * num_predicted)
        pairs = np.flatnonzero(counts)
        shared = counts[pairs]
    else:
        pairs, shared = np.unique(codes, return_counts=True)
    rows, columns = np.divmod(pairs, max(1, num_predicted))
    return rows, columns, shared.astype(np.int64)


class _TableCounter:
    """Gathers an :class:`ObjectTable` from slabs."""

    def __init__(self) -> None:
        self._labels: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.float64]] = []  # sums are exact: they stay far below 2**53

    def add(self, first_plane: int, labels: NDArray[np.int64], numbered: NDArray[np.int32]) -> None:
        """``numbered`` holds each voxel's object as 1 + its place in ``labels``."""
        from scipy import ndimage  # a third of a second that opening the window need not wait for

        if not len(labels):
            return
        boxes = ndimage.find_objects(numbered, max_label=len(labels))
        edges = np.array([[edge for part in box for edge in (part.start, part.stop)] for box in boxes], np.float64)
        edges[:, :2] += first_plane
        z, y, x = np.nonzero(numbered)
        objects = numbered[z, y, x] - 1
        sizes = np.bincount(objects, minlength=len(labels))
        sums = [np.bincount(objects, weights=axis, minlength=len(labels)) for axis in (z, y, x)]
        sums[0] += first_plane * sizes
        self._labels.append(labels)
        self._rows.append(np.column_stack([sizes, *sums, edges]))

    def table(self) -> ObjectTable:
        if not self._labels:
            nothing = np.zeros((0, 3), np.int64)
            none = np.zeros(0, np.int64)
            return ObjectTable(none, none, nothing, nothing, nothing.astype(np.float64))
        labels, place = np.unique(np.concatenate(self._labels), return_inverse=True)
        rows = np.concatenate(self._rows)
        totals = np.zeros((len(labels), 4))
        np.add.at(totals, place, rows[:, :4])
        starts = np.full((len(labels), 3), np.inf)
        stops = np.full((len(labels), 3), -np.inf)
        np.minimum.at(starts, place, rows[:, 4::2])
        np.maximum.at(stops, place, rows[:, 5::2])
        centres = totals[:, 1:] / totals[:, :1]
        return ObjectTable(
            labels, totals[:, 0].astype(np.int64), starts.astype(np.int64), stops.astype(np.int64), centres
        )
