"""The objects of labelled volumes, counted slab by slab: sizes, boxes and centres, and overlaps of two volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def find_objects(labels_ZYX: LazyArray) -> ObjectTable:
    """All objects of one volume; 0 and negative labels are background."""
    return _table([_rows(start, *renumber(whole_numbers(slab))) for start, slab in slabs(labels_ZYX)])


def _rows(first_plane: int, labels: NDArray[np.int64], numbered: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each object of a slab: label, voxels, sums of their z, y and x, and where its box starts and stops.

    ``numbered`` holds each voxel's object as 1 + its place in ``labels``.
    """
    if not len(labels):
        return np.zeros((0, 11), np.int64)
    boxes = ndimage.find_objects(numbered, max_label=len(labels))
    edges = np.array([[edge for part in box for edge in (part.start, part.stop)] for box in boxes], np.int64)
    place = np.nonzero(numbered)
    objects = numbered[place] - 1
    sizes = np.bincount(objects, minlength=len(labels))
    # exact: sums stay far below 2**53
    sums = [np.bincount(objects, weights=axis, minlength=len(labels)).astype(np.int64) for axis in place]
    rows = np.column_stack([labels, sizes, *sums, edges])
    rows[:, 2] += first_plane * sizes
    rows[:, 5:7] += first_plane
    return rows


def _table(parts: list[NDArray[np.int64]]) -> ObjectTable:
    """The rows of all slabs, added up."""
    rows = np.concatenate([np.zeros((0, 11), np.int64), *parts])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    labels, first = np.unique(rows[:, 0], return_index=True)
    totals = np.add.reduceat(rows[:, 1:5], first)
    starts, stops = np.minimum.reduceat(rows[:, 5::2], first), np.maximum.reduceat(rows[:, 6::2], first)
    return ObjectTable(labels, totals[:, 0], starts, stops, totals[:, 1:] / totals[:, :1])


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
    parts: list[NDArray[Any]] = []
    # components of volumes beyond 400³ are counted in coarser ones
    step = 2 ** max(0, math.ceil(math.log2(max(1, math.prod(labels_ZYX.shape)) / _MAX_COMPONENT_VOXELS) / 3))
    for start, slab in slabs(labels_ZYX, multiple_of=step):
        labels = whole_numbers(slab)
        target = to_target(labels, scheme)
        is_ignored = target == IGNORE
        inside = (target > 0) & ~is_ignored
        total += target.size
        ignored += int(np.count_nonzero(is_ignored))
        foreground += int(np.count_nonzero(inside))
        if labels.dtype.kind == "i":
            negative += int(np.count_nonzero((labels < 0) & ~is_ignored))
        if scheme.kind == "objects":
            parts.append(_rows(start, *renumber(object_labels(labels, scheme))))
        else:
            parts.append(inside[::step, ::step, ::step].copy())
    if scheme.kind == "objects":
        table = _table(parts)
        sizes, extents = table.sizes, table.stops - table.starts
    else:
        components, number = ndimage.label(np.concatenate(parts))
        sizes = np.bincount(components.ravel(), minlength=number + 1)[1:].astype(np.int64) * step**3
        boxes = [[(part.stop - part.start) * step for part in box] for box in ndimage.find_objects(components)]
        extents = np.array(boxes, dtype=np.int64).reshape(-1, 3)
    annotated = total - ignored
    return LabelSummary(
        num_objects=len(sizes),
        foreground_fraction=foreground / annotated if annotated else 0.0,
        ignored_fraction=ignored / total if total else 0.0,
        object_sizes=sizes,
        object_extents=extents,
        num_negative=negative,
    )


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
    parts = []
    for start, truth in slabs(truth_ZYX):
        predicted = np.asarray(predicted_ZYX[start : start + len(truth), :, :])
        parts.append(overlaps_in(start, whole_numbers(truth), whole_numbers(predicted)))
    return add_overlaps(parts)


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


PartOverlaps = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""The objects of both sides in some planes, as of :func:`_rows`, and (3, N) labels of both and voxels of each pair."""


def overlaps_in(first_plane: int, truth: NDArray[Any], predicted: NDArray[Any]) -> PartOverlaps:
    """What some planes hold, to be added up by :func:`add_overlaps`."""
    true_labels, true = renumber(truth)
    predicted_labels, found = renumber(predicted)
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
    overlapping = np.stack([true_labels[rows], predicted_labels[columns], shared])
    return _rows(first_plane, true_labels, true), _rows(first_plane, predicted_labels, found), overlapping


def add_overlaps(parts: Sequence[PartOverlaps]) -> Overlaps:
    true, predicted = _table([part[0] for part in parts]), _table([part[1] for part in parts])
    pairs = np.concatenate([np.zeros((3, 0), np.int64), *(part[2] for part in parts)], axis=1)
    rows, columns = np.searchsorted(true.labels, pairs[0]), np.searchsorted(predicted.labels, pairs[1])
    codes, position = np.unique(rows * (len(predicted) + 1) + columns, return_inverse=True)
    shared = np.zeros(len(codes), np.int64)
    np.add.at(shared, position, pairs[2])
    true_index, predicted_index = np.divmod(codes, len(predicted) + 1)
    return Overlaps(true, predicted, true_index, predicted_index, shared)
