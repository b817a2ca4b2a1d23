"""What label values mean, how they become the network's target, and what is in a labelled volume.

Numbered objects as something to learn: how deep in its object each voxel lies, and where two objects meet.

Depth and boundary are packed into the one byte a voxel that the target has anyway, so that cropping, mirroring and
augmenting a patch need to know nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.values.config import ZYX, DataConfig, LabelKind, Spacing
from napari_celltrain.values.errors import DataError

IGNORE = 255
"""Target value of voxels that count neither in the loss nor in the Dice."""
MAX_CLASSES = 64
MAX_CLASS_VALUE = 2**32 - 1
"""The largest value of a class: predictions are written with 32 bits at most."""
# Beyond this, a table indexed by label value would cost more than sorting the values.
_MAX_TABLE = 2**22
# Counting the blobs of a mask needs four bytes a voxel; beyond this many voxels every second one is looked at.
_MAX_BLOB_VOXELS = 2**26


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """How label values are read. ``class_values`` are the sorted label values of kind ``classes``, background
    among them; the network's output k stands for ``class_values[k]``."""

    kind: LabelKind
    ignore_value: int | None = None
    class_values: tuple[int, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.class_values) if self.kind == "classes" else 1


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What is in one labelled volume. Fractions are of the annotated voxels, but ``ignored_fraction`` is of all."""

    num_objects: int
    """Objects by their numbers; for the other kinds, connected pieces of foreground."""
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


def scheme_for(config: DataConfig, label_arrays: Iterable[LazyArray]) -> LabelScheme:
    """The scheme of a run. Only for kind ``classes`` are ``label_arrays`` (all volumes) gone through.

    Raises :class:`DataError` where the values cannot be classes: more than :data:`MAX_CLASSES`, negative, or beyond
    32 bits.
    """
    if config.label_kind != "classes":
        return LabelScheme(config.label_kind, config.ignore_value)
    values: set[int] = set()
    for array in label_arrays:
        values |= distinct_values(array, config.ignore_value, limit=MAX_CLASSES)
        _refuse_class_values(values)
        if len(values) > MAX_CLASSES:
            raise DataError(
                f"The labels hold more than {MAX_CLASSES} different values, so these look like objects, not classes. "
                "Choose label_kind: objects."
            )
    if len(values) < 2:
        held = f"only the value {next(iter(values))}" if values else "no annotated voxel"
        raise DataError(f"Classes need at least two label values, and the labels hold {held}. Check the labels.")
    return LabelScheme("classes", config.ignore_value, tuple(sorted(values)))


def _refuse_class_values(values: set[int]) -> None:
    if values and min(values) < 0:
        raise DataError(
            f"The labels hold the value {min(values)}, and classes cannot be negative. If these are voxels that nobody "
            "annotated, give them the ignore value (data.ignore_value); otherwise number the classes from 0."
        )
    if values and max(values) > MAX_CLASS_VALUE:
        raise DataError(
            f"The labels hold the value {max(values)}, and classes go up to {MAX_CLASS_VALUE}. "
            "Number the classes from 0."
        )


def distinct_values(array: LazyArray, ignore_value: int | None, *, limit: int) -> set[int]:
    """The label values that occur, without the ignored one; stops early once there are more than ``limit``."""
    values: set[int] = set()
    for _, slab in slabs(array):
        values |= {int(value) for value in np.unique(whole_numbers(slab))} - {ignore_value}
        if len(values) > limit:
            break
    return values


def whole_numbers(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels in an integer type. Raises :class:`DataError` where they are no whole numbers."""
    if labels.dtype.kind in "ui":
        return labels
    if labels.dtype.kind == "b":
        return labels.view(np.uint8)
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise DataError(
            "The labels are intensities: they hold fractions, where each voxel needs a whole number. "
            "Choose the folder of the labels, not that of the images or of probabilities."
        )
    return whole


def to_target(labels_ZYX: NDArray[Any], scheme: LabelScheme) -> NDArray[np.uint8]:
    """0 for background, 1 for foreground or the class's index, ``IGNORE`` where ignored; C-contiguous.

    Raises :class:`DataError` for fractions, and for values that are no class of the scheme.
    """
    labels = whole_numbers(labels_ZYX)
    ignored = None if scheme.ignore_value is None else np.asarray(labels == scheme.ignore_value)
    if scheme.kind == "classes":
        target = _class_indices(labels, ignored, scheme.class_values)
    else:
        target = np.greater(labels, 0).view(np.uint8)
    if ignored is not None:
        target[ignored] = IGNORE
    return np.ascontiguousarray(target)


class ClassTarget:
    """The target of a labelled volume by slices, made from the labels when it is asked for."""

    def __init__(self, labels: LazyArray, scheme: LabelScheme) -> None:
        self.shape = labels.shape
        self.ndim = 3
        self.dtype = np.dtype(np.uint8)
        self._labels = labels
        self._scheme = scheme

    def __getitem__(self, region: Any) -> NDArray[np.uint8]:
        return to_target(np.asarray(self._labels[region]), self._scheme)


def object_labels(labels_ZYX: NDArray[Any], scheme: LabelScheme) -> NDArray[Any]:
    """The objects as whole numbers, to be scored: negative and ignored voxels are 0, as in the target.

    ``labels_ZYX`` itself is returned where nothing is to be changed. Raises :class:`DataError` for fractions.
    """
    labels = whole_numbers(labels_ZYX)
    dropped = labels < 0
    if scheme.ignore_value is not None:
        dropped |= labels == scheme.ignore_value
    return np.where(dropped, labels.dtype.type(0), labels) if dropped.any() else labels


def _class_indices(
    labels: NDArray[Any], ignored: NDArray[np.bool_] | None, class_values: tuple[int, ...]
) -> NDArray[np.uint8]:
    values = np.array(class_values, dtype=np.int64)
    index = np.minimum(np.searchsorted(values, labels.ravel()), len(values) - 1).astype(np.uint8)
    target = index.reshape(labels.shape)
    unknown = values[target] != labels
    if ignored is not None:
        unknown &= ~ignored
    if unknown.any():
        found = int(labels[unknown].flat[0])
        known = ", ".join(map(str, class_values))
        raise DataError(f"The labels hold the value {found}, which is none of the classes {known}.")
    return target


def summarize(labels_ZYX: LazyArray, scheme: LabelScheme) -> LabelSummary:
    """Count and measure what is labelled, piece by piece, so that a large volume needs little memory."""
    total = ignored = foreground = negative = 0
    objects = _Objects()
    for start, slab in slabs(labels_ZYX):
        labels = whole_numbers(slab)
        target = to_target(labels, scheme)
        is_ignored = target == IGNORE
        is_foreground = (target > 0) & ~is_ignored
        total += target.size
        ignored += int(np.count_nonzero(is_ignored))
        foreground += int(np.count_nonzero(is_foreground))
        if labels.dtype.kind == "i":
            negative += int(np.count_nonzero((labels < 0) & ~is_ignored))
        if scheme.kind == "objects":
            objects.add(start, np.where(is_foreground, labels, 0) if (labels.min() < 0 or ignored) else labels)
    sizes, extents = objects.measured() if scheme.kind == "objects" else _measure_blobs(labels_ZYX, scheme)
    annotated = total - ignored
    return LabelSummary(
        num_objects=len(sizes),
        foreground_fraction=foreground / annotated if annotated else 0.0,
        ignored_fraction=ignored / total if total else 0.0,
        object_sizes=sizes,
        object_extents=extents,
        num_negative=negative,
    )


class _Objects:
    """Sizes and bounding boxes of numbered objects, gathered slab by slab."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._boxes: dict[int, list[int]] = {}

    def add(self, first_plane: int, labels: NDArray[Any]) -> None:
        """``labels`` hold no negative values; 0 is no object."""
        from scipy import ndimage  # a third of a second that opening the window need not wait for

        ids, compact = compact_labels(labels)
        counts = np.bincount(compact.ravel())
        for index, box in enumerate(ndimage.find_objects(compact), start=1):
            if box is None:
                continue
            number = index if ids is None else int(ids[index])
            edges = [(int(s.start), int(s.stop)) for s in box]
            edges[0] = (edges[0][0] + first_plane, edges[0][1] + first_plane)
            self._sizes[number] = self._sizes.get(number, 0) + int(counts[index])
            old = self._boxes.setdefault(number, [edge for pair in edges for edge in pair])
            for axis, (low, high) in enumerate(edges):
                old[2 * axis] = min(old[2 * axis], low)
                old[2 * axis + 1] = max(old[2 * axis + 1], high)

    def measured(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        boxes = np.array([self._boxes[number] for number in self._sizes], dtype=np.int64).reshape(-1, 6)
        return np.array(list(self._sizes.values()), dtype=np.int64), boxes[:, 1::2] - boxes[:, ::2]


def compact_labels(labels: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Labels that can index a table: themselves, or their ranks (0 stays 0) with the values by rank."""
    if int(labels.max(initial=0)) <= _MAX_TABLE:
        # bincount and find_objects take no unsigned 64-bit values.
        return None, labels.astype(np.int64) if labels.dtype == np.uint64 else labels
    ids, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape)
    if ids[0] != 0:
        ids, ranks = np.concatenate([ids[:1] * 0, ids]), ranks + 1
    return ids, ranks


def _measure_blobs(labels: LazyArray, scheme: LabelScheme) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sizes and extents of the connected pieces of foreground; coarser by 2 in volumes beyond 400³."""
    from scipy import ndimage

    num_voxels = int(np.prod(labels.shape, dtype=np.int64))
    step = 1 if num_voxels <= _MAX_BLOB_VOXELS else 2 ** int(np.ceil(np.log2(num_voxels / _MAX_BLOB_VOXELS) / 3))
    parts = []
    for _, slab in slabs(labels, multiple_of=step):
        target = to_target(slab[::step, ::step, ::step], scheme)
        parts.append((target > 0) & (target != IGNORE))
    blobs, count = ndimage.label(np.concatenate(parts))
    sizes = np.bincount(blobs.ravel(), minlength=count + 1)[1:].astype(np.int64) * step**3
    boxes = [[(s.stop - s.start) * step for s in box] for box in ndimage.find_objects(blobs) if box is not None]
    return sizes, np.array(boxes, dtype=np.int64).reshape(-1, 3)


# --- object target ---------------------------------------------------------------------------------------

DEPTHS = 127
"""Steps of depth within an object: 0 at its border, 126 at its deepest voxel."""

# Target values: 0 is background, 255 is ignored, 1 + depth is a voxel of an object, and 1 + DEPTHS + depth one at its
# boundary with another object. These are 1 + 127 + 127 + 1 values: the byte is full.


def encode_objects(labels_ZYX: NDArray[Any], scheme: LabelScheme, spacing: Spacing) -> NDArray[np.uint8]:
    """The packed target of instance labels: `to_target` with depth and boundary in place of 1.

    Depth is the distance in µm to the nearest voxel that is not of the object, relative to the object's deepest
    voxel; so objects of all sizes have a summit of 1, as StarDist's object probability does (Weigert et al. 2020,
    doi 10.1109/WACV45572.2020.9093435). The boundary is where another object is no further than two voxels: a border
    with the background tells nothing that the foreground does not. The end of the array is no border.
    """
    target = to_target(labels_ZYX, scheme)
    objects = object_labels(labels_ZYX, scheme)
    reach = max(2 * min(spacing), max(spacing))
    for part, mask, others in _objects(objects, [math.ceil(reach / size) for size in spacing]):
        code = 1 + np.rint(_depth(mask, spacing)[mask] * (DEPTHS - 1)).astype(np.uint8)
        if others.any():
            meets = ndimage.distance_transform_edt(~others, sampling=spacing)[mask] < 1.01 * reach
            code[meets] += np.uint8(DEPTHS)
        target[part][mask] = code
    return target


def decode_target(code: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """What is packed: the plain target (0, 1, ``IGNORE``), the depth (0…1) and the boundary."""
    inside = (code > 0) & (code != IGNORE)
    packed = np.where(inside, code - np.uint8(1), 0)
    depth = (packed % DEPTHS).astype(np.float32) / np.float32(DEPTHS - 1)
    return np.where(inside, np.uint8(1), code).astype(np.uint8), depth.astype(np.float32), packed >= DEPTHS


def readable_target(code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The packed target for people to look at: 1 in an object, 2 where it meets another, ``IGNORE`` where ignored."""
    plain, _, boundary = decode_target(code)
    return np.where(boundary, np.uint8(2), plain)


class ObjectTarget:
    """The packed targets of a labelled volume, by slices: made once for labels in memory, else piece by piece.

    ``context`` (voxels along z, y, x) is read around a piece, so that the depth of an object that the piece cuts is
    that of the whole object as far as this reaches.
    """

    def __init__(self, labels: LazyArray, scheme: LabelScheme, spacing: Spacing, context: ZYX) -> None:
        self.shape = labels.shape
        self.dtype = np.dtype(np.uint8)
        self.ndim = 3
        self._labels = labels
        self._scheme = scheme
        self._spacing = spacing
        self._context = context
        self._whole = encode_objects(labels, scheme, spacing) if isinstance(labels, np.ndarray) else None

    def __getitem__(self, region: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
        if self._whole is not None:
            return self._whole[region]
        spans = [part.indices(int(size))[:2] for part, size in zip(region, self.shape, strict=True)]
        outer = tuple(
            slice(max(0, start - margin), min(int(size), stop + margin))
            for (start, stop), margin, size in zip(spans, self._context, self.shape, strict=True)
        )
        inner = tuple(
            slice(start - around.start, stop - around.start) for (start, stop), around in zip(spans, outer, strict=True)
        )
        return encode_objects(np.asarray(self._labels[outer]), self._scheme, self._spacing)[inner]


def _objects(
    objects: NDArray[Any], margins: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Every object's box, wider by the margins where there is room; in it, the object and all others."""
    _, compact = compact_labels(objects)
    for index, box in enumerate(ndimage.find_objects(compact), start=1):
        if box is not None:
            part = tuple(
                slice(max(0, span.start - margin), min(size, span.stop + margin))
                for span, margin, size in zip(box, margins, objects.shape, strict=True)
            )
            inside = compact[part]
            yield part, inside == index, (inside != index) & (inside != 0)


def _depth(mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float32]:
    if mask.all():  # nothing to be distant from
        return np.ones(mask.shape, np.float32)
    distance = ndimage.distance_transform_edt(mask, sampling=spacing)
    # Half a voxel less, so that the outermost voxels are near 0 in small objects too.
    distance = np.maximum(0, distance - 0.5 * min(spacing))
    deepest = distance.max()
    return (distance / deepest if deepest > 0 else mask).astype(np.float32)
