"""Numbered objects as something to learn: how deep in its object each voxel lies, and where two objects meet.

Depth and boundary are packed into the one byte a voxel that the target has anyway, so that cropping, mirroring and
augmenting a patch need to know nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.config import ZYX, Spacing
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.labels import IGNORE, LabelScheme, compact_labels, object_labels, to_target

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
