"""The objects of labelled volumes, counted slab by slab: sizes, boxes and centres, and overlaps of two volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.data.labels import IGNORE, LabelScheme, object_labels, renumber, to_target, whole_numbers
from napari_celltrain.io.volume import LazyArray, slabs

# Pairs of objects that a slab may hold for them to be counted by a table, not by sorting.
_MAX_PAIR_TABLE = 2**22
# Counting the components of a mask needs four bytes a voxel; beyond this many voxels every second one is counted.
_MAX_COMPONENT_VOXELS = 2**26


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

    def box(self, index: int) -> tuple[slice, ...]:
        return tuple(slice(int(a), int(b)) for a, b in zip(self.starts[index], self.stops[index], strict=True))


def find_objects(labels_ZYX: LazyArray) -> ObjectTable:
    """All objects of one volume; 0 and negative labels are background."""
    counter = _ObjectCounter()
    for start, slab in slabs(labels_ZYX):
        counter.add(start, *renumber(whole_numbers(slab)))
    return counter.table()


class _ObjectCounter:
    """Gathers an :class:`ObjectTable` from slabs."""

    def __init__(self) -> None:
        self._labels: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.float64]] = []  # sums are exact: they stay far below 2**53

    def add(self, first_plane: int, labels: NDArray[np.int64], numbered: NDArray[np.int32]) -> None:
        """``numbered`` holds each voxel's object as 1 + its place in ``labels``."""
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
        labels, place = np.unique(np.concatenate([np.zeros(0, np.int64), *self._labels]), return_inverse=True)
        rows = np.concatenate([np.zeros((0, 10)), *self._rows])
        totals = np.zeros((len(labels), 4))
        np.add.at(totals, place, rows[:, :4])
        starts, stops = np.full((len(labels), 3), np.inf), np.zeros((len(labels), 3))
        np.minimum.at(starts, place, rows[:, 4::2])
        np.maximum.at(stops, place, rows[:, 5::2])
        sizes, centres = totals[:, 0].astype(np.int64), totals[:, 1:] / totals[:, :1]
        return ObjectTable(labels, sizes, starts.astype(np.int64), stops.astype(np.int64), centres)


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What is in one labelled volume. Fractions are of the annotated voxels, but ``ignored_fraction`` is of all."""

    num_objects: int
    """Objects by their numbers; for the other kinds, connected components of the foreground."""
    foreground_fraction: float
    ignored_fraction: float
    object_sizes: NDArray[np.int64]
    """Voxels of each object."""
    object_extents: NDArray[np.int64]
    """(num_objects, 3): voxels along z, y and x that each object spans."""
    num_negative: int = 0
    """Voxels with a negative label that is not the ignored one; they count as background."""

    @property
    def median_extent(self) -> tuple[float, float, float] | None:
        """Typical size of an object along z, y and x, in voxels."""
        if not self.num_objects:
            return None
        z, y, x = np.median(self.object_extents, axis=0)
        return float(z), float(y), float(x)


def summarize(labels_ZYX: LazyArray, scheme: LabelScheme) -> LabelSummary:
    """Count and measure what is labelled, slab by slab, so that a large volume needs little memory."""
    total = ignored = foreground = negative = 0
    counter = _ObjectCounter()
    for start, slab in slabs(labels_ZYX):
        labels = whole_numbers(slab)
        target = to_target(labels, scheme)
        is_ignored = target == IGNORE
        total += target.size
        ignored += int(np.count_nonzero(is_ignored))
        foreground += int(np.count_nonzero((target > 0) & ~is_ignored))
        if labels.dtype.kind == "i":
            negative += int(np.count_nonzero((labels < 0) & ~is_ignored))
        if scheme.kind == "objects":
            counter.add(start, *renumber(object_labels(labels, scheme)))
    if scheme.kind == "objects":
        table = counter.table()
        sizes, extents = table.sizes, table.stops - table.starts
    else:
        sizes, extents = _measure_components(labels_ZYX, scheme)
    annotated = total - ignored
    return LabelSummary(
        num_objects=len(sizes),
        foreground_fraction=foreground / annotated if annotated else 0.0,
        ignored_fraction=ignored / total if total else 0.0,
        object_sizes=sizes,
        object_extents=extents,
        num_negative=negative,
    )


def _measure_components(labels: LazyArray, scheme: LabelScheme) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sizes and extents of the connected components of the foreground; coarser by 2 in volumes beyond 400³."""
    num_voxels = math.prod(labels.shape)
    step = 2 ** max(0, math.ceil(math.log2(max(1, num_voxels) / _MAX_COMPONENT_VOXELS) / 3))
    parts = []
    for _, slab in slabs(labels, multiple_of=step):
        target = to_target(slab[::step, ::step, ::step], scheme)
        parts.append((target > 0) & (target != IGNORE))
    components, number = ndimage.label(np.concatenate(parts))
    sizes = np.bincount(components.ravel(), minlength=number + 1)[1:].astype(np.int64) * step**3
    boxes = [[(s.stop - s.start) * step for s in box] for box in ndimage.find_objects(components) if box is not None]
    return sizes, np.array(boxes, dtype=np.int64).reshape(-1, 3)


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
    refuse_other_shape(truth_ZYX, predicted_ZYX)
    counter = OverlapCounter()
    for start, truth in slabs(truth_ZYX):
        predicted = np.asarray(predicted_ZYX[start : start + len(truth), :, :])
        counter.add(start, whole_numbers(truth), whole_numbers(predicted))
    return counter.overlaps()


def refuse_other_shape(first: LazyArray, second: LazyArray) -> None:
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")


def without_ignored(
    truth: NDArray[Any], predicted: NDArray[Any], ignore_value: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both with 0 where the truth is ``ignore_value``."""
    ignored = None if ignore_value is None else np.asarray(truth == ignore_value)
    if ignored is None or not ignored.any():
        return truth, predicted
    return np.where(ignored, truth.dtype.type(0), truth), np.where(ignored, predicted.dtype.type(0), predicted)


class OverlapCounter:
    """Gathers :class:`Overlaps` from slabs of both volumes, given in any pieces along z."""

    def __init__(self) -> None:
        self._true, self._predicted = _ObjectCounter(), _ObjectCounter()
        self._parts: list[NDArray[np.int64]] = []

    def add(self, first_plane: int, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        true_labels, true = renumber(truth)
        predicted_labels, found = renumber(predicted)
        self._true.add(first_plane, true_labels, true)
        self._predicted.add(first_plane, predicted_labels, found)
        both = (true > 0) & (found > 0)
        codes = (true[both].astype(np.int64) - 1) * len(predicted_labels) + (found[both] - 1)
        num_pairs = len(true_labels) * len(predicted_labels)
        if num_pairs <= _MAX_PAIR_TABLE:
            counts = np.bincount(codes, minlength=num_pairs)
            pairs = np.flatnonzero(counts)
            shared = counts[pairs]
        else:
            pairs, shared = np.unique(codes, return_counts=True)
        rows, columns = np.divmod(pairs, max(1, len(predicted_labels)))
        self._parts.append(np.stack([true_labels[rows], predicted_labels[columns], shared]))

    def overlaps(self) -> Overlaps:
        true, predicted = self._true.table(), self._predicted.table()
        parts = np.concatenate([np.zeros((3, 0), np.int64), *self._parts], axis=1)
        rows = np.searchsorted(true.labels, parts[0])
        codes = rows * (len(predicted) + 1) + np.searchsorted(predicted.labels, parts[1])
        pairs, position = np.unique(codes, return_inverse=True)
        shared = np.zeros(len(pairs), np.int64)
        np.add.at(shared, position, parts[2])
        true_index, predicted_index = np.divmod(pairs, len(predicted) + 1)
        return Overlaps(true, predicted, true_index, predicted_index, shared)
