"""What label values mean, and how they become the network's target.

The target of numbered objects has three parts: which voxels are foreground, how deep in its object each voxel lies, and
where two objects meet. All are packed into the one byte a voxel that a target has anyway, so that cropping, mirroring
and augmenting a patch need not know of depth and boundary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.io.axes import Region, with_margins, zyx
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.values.config import ZYX, DataConfig, LabelKind, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.text import count

IGNORE = 255
"""Target value of voxels that count neither in the loss nor in the Dice."""
MAX_CLASSES = 64
# Label values up to here are renumbered by a table, larger ones by sorting, which is slower.
_MAX_TABLE = 2**24


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
        if values and min(values) < 0:
            message = f"The labels hold the value {min(values)}, and classes cannot be negative."
            remedy = (
                "If nobody annotated these voxels, give this value as the ignore value; otherwise number the classes"
            )
            raise _not_classes(message, f"{remedy} from 0.", "data.ignore_value")
        if values and max(values) >= 2**32:  # predictions are written with 32 bits at most
            message = f"The labels hold the value {max(values)}, and classes go up to {2**32 - 1}."
            raise _not_classes(message, "Number the classes from 0.")
        if len(values) > MAX_CLASSES:
            message = (
                f"The labels hold more than {MAX_CLASSES} different values, so these look like objects, not classes."
            )
            raise _not_classes(message, "Read the labels as objects.", "data.label_kind")
    if len(values) < 2:
        held = f"only the value {next(iter(values))}" if values else "no annotated voxel"
        message = f"Classes need at least two label values, and the labels hold {held}."
        raise _not_classes(message, "Check the labels.")
    return LabelScheme("classes", config.ignore_value, tuple(sorted(values)))


def _not_classes(message: str, remedy: str, *settings: str) -> DataError:
    return DataError(Problem("not-classes", "labels", message, remedy, settings=settings))


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
    if num_odd := int(np.count_nonzero(~np.isfinite(labels))):
        raise DataError(not_finite(num_odd))
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        message = "The labels are intensities: they hold fractions, where each voxel needs a whole number."
        remedy = "Choose the folder of the labels, not that of the images or of probabilities."
        raise DataError(Problem("labels-are-intensities", "", message, remedy))
    return whole


def not_finite(num_voxels: int, where: str = "") -> Problem:
    """That labels hold NaN or infinity."""
    message = f"The labels hold {count(num_voxels, 'voxel')} with no number (NaN or infinite)."
    remedy = "Replace NaN by 0, or by the ignore value where nobody annotated, and save the labels as whole numbers."
    return Problem("nan-or-inf", where, message, remedy)


def to_target(labels_ZYX: NDArray[Any], scheme: LabelScheme) -> NDArray[np.uint8]:
    """0 for background, 1 for foreground or the class's index, ``IGNORE`` where ignored; C-contiguous.

    Raises :class:`DataError` for fractions, and for values that are no class of the scheme.
    """
    labels = whole_numbers(labels_ZYX)
    ignored = None if scheme.ignore_value is None else np.asarray(labels == scheme.ignore_value)
    if scheme.kind == "classes":
        values = np.array(scheme.class_values, dtype=np.int64)
        index = np.minimum(np.searchsorted(values, labels.ravel()), len(values) - 1).astype(np.uint8)
        target = index.reshape(labels.shape)
        unknown = values[target] != labels
        if ignored is not None:
            unknown &= ~ignored
        if unknown.any():
            found, known = int(labels[unknown].flat[0]), ", ".join(map(str, scheme.class_values))
            raise DataError(f"The labels hold the value {found}, which is none of the classes {known}.")
    else:
        target = np.greater(labels, 0).view(np.uint8)
    if ignored is not None:
        target[ignored] = IGNORE
    return np.ascontiguousarray(target)


def object_labels(labels_ZYX: NDArray[Any], scheme: LabelScheme) -> NDArray[Any]:
    """The objects as whole numbers, to be scored: negative and ignored voxels are 0, as in the target.

    ``labels_ZYX`` itself is returned where nothing is to be changed. Raises :class:`DataError` for fractions.
    """
    labels = whole_numbers(labels_ZYX)
    dropped = labels < 0
    if scheme.ignore_value is not None:
        dropped |= labels == scheme.ignore_value
    return np.where(dropped, labels.dtype.type(0), labels) if dropped.any() else labels


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


DEPTHS = 127
"""Steps of depth within an object: 0 at its border, 126 at its deepest voxel."""

# Target values: 0 is background, 255 is ignored, 1 + depth is a voxel of an object, and 1 + DEPTHS + depth one at its
# boundary with another object. These are 1 + 127 + 127 + 1 values: the byte is full.


def encode_objects(labels_ZYX: NDArray[Any], scheme: LabelScheme, spacing: Spacing) -> NDArray[np.uint8]:
    """The packed target of instance labels: `to_target` with depth and boundary in place of 1.

    Depth is the distance in µm to the nearest voxel that is not of the object, relative to the object's deepest
    voxel; so objects of all sizes have a peak of 1, as StarDist's object probability does (Weigert et al. 2020,
    doi 10.1109/WACV45572.2020.9093435). The boundary is where another object is no further than two voxels: a border
    with the background adds nothing to the foreground. The end of the array is no border.
    """
    target = to_target(labels_ZYX, scheme)
    _, numbered = renumber(object_labels(labels_ZYX, scheme))
    reach = max(2 * min(spacing), max(spacing))
    margins = zyx(math.ceil(reach / size) for size in spacing)
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        part, _ = with_margins(box, margins, numbered.shape)
        mask = numbered[part] == number
        others = (numbered[part] != 0) & ~mask
        depth = np.ones(np.count_nonzero(mask), np.float32)
        if not mask.all():  # else there is nothing to be distant from
            # Half a voxel less, so that the outermost voxels are near 0 in small objects too.
            distance = ndimage.distance_transform_edt(mask, sampling=spacing)[mask] - 0.5 * min(spacing)
            depth = (distance / distance.max()).astype(np.float32)
        code = 1 + np.rint(depth * (DEPTHS - 1)).astype(np.uint8)
        if others.any():
            meets = ndimage.distance_transform_edt(~others, sampling=spacing)[mask] < 1.01 * reach
            code[meets] += np.uint8(DEPTHS)
        target[part][mask] = code
    return target


def decode_target(code: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """The parts of a packed target: the plain target (0, 1, ``IGNORE``), the depth (0…1) and the boundary."""
    inside = (code > 0) & (code != IGNORE)
    packed = np.where(inside, code - np.uint8(1), 0)
    depth = (packed % DEPTHS).astype(np.float32) / np.float32(DEPTHS - 1)
    return np.where(inside, np.uint8(1), code).astype(np.uint8), depth.astype(np.float32), packed >= DEPTHS


def readable_target(code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The packed target for display: 1 in an object, 2 where it meets another, ``IGNORE`` where ignored."""
    plain, _, boundary = decode_target(code)
    return np.where(boundary, np.uint8(2), plain)


class LazyTarget:
    """The target of a labelled volume, made from the labels when it is indexed by slices.

    With a ``spacing`` it is packed. ``context`` (voxels along z, y, x) is read around a piece, so that the depth of an
    object that the piece cuts is that of the whole object as far as this reaches.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(
        self, labels: LazyArray, scheme: LabelScheme, spacing: Spacing | None = None, context: ZYX = (0, 0, 0)
    ) -> None:
        self.shape = labels.shape
        self._source = labels, scheme, spacing, context

    def __getitem__(self, region: Region) -> NDArray[np.uint8]:
        labels, scheme, spacing, context = self._source
        outer, inner = with_margins(region, context, self.shape)
        piece = np.asarray(labels[outer])
        return (to_target(piece, scheme) if spacing is None else encode_objects(piece, scheme, spacing))[inner]
