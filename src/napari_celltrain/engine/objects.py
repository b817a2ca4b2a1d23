"""From the maps of a network to numbered objects, of a whole volume or of a block of it.

Maps are uint8 (C, Z, Y, X) in steps of 1/255: the foreground, and where objects were learned their distance and
boundary (`decoding.OBJECT_MAPS`). Touching objects are told apart by seeds, one in the middle of each, from which a
watershed (Beucher and Lantuéjoul 1979) fills the foreground.

Whether a voxel is a seed depends on its surroundings alone. So blocks that overlap find the same seeds, and an object
is named after its seed: whatever blocks it crosses, it has one name in all of them.
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.decoding import ObjectDecoding

Maps = NDArray[np.uint8]
Region = tuple[slice, slice, slice]

TRUNCATE = 3.0
"""Reach of the smoothing, in sigmas."""


def quantize(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Probabilities 0…1 in 255 steps; half of them is then decided exactly."""
    steps: NDArray[np.uint8] = np.floor(probabilities * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return steps


def foreground_of(maps: Maps, threshold: float) -> NDArray[np.bool_]:
    """Where the probability of the first map is at least ``threshold``."""
    mask: NDArray[np.bool_] = maps[0] >= max(1, ceil(255 * threshold - 1e-6))
    return mask


def decode(maps: Maps, threshold: float, decoding: ObjectDecoding, spacing: Spacing) -> NDArray[np.int32]:
    """The objects (Z, Y, X) of a whole volume, numbered 1…N in the order of their first voxels.

    ``spacing`` is the voxel size (z, y, x) in µm.
    """
    mask = foreground_of(maps, threshold)
    objects = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return objects
    box = _box(mask, decoding, spacing)
    if decoding.method == "components":
        ndimage.label(mask[box], output=objects[box])
    else:
        height = _heights(maps[(slice(None), *box)], mask[box], decoding, spacing)
        seeds = _seeds(height, mask[box], decoding, spacing)
        objects[box] = _flood(height, mask[box], seeds, np.arange(1, len(seeds) + 1))
    return without_small(objects, decoding.min_size_um3, spacing)


def _box(mask: NDArray[np.bool_], decoding: ObjectDecoding, spacing: Spacing) -> Region:
    """Where the foreground is, as most of a volume is often empty, with so much around it that nothing in it is
    decoded otherwise than in the whole volume."""
    reach = TRUNCATE * decoding.smoothing_um + decoding.seed_distance_um
    z, y, x = (
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, margin, length in zip(
            ndimage.find_objects(mask.view(np.uint8))[0],
            [ceil(reach / size) + 2 for size in spacing],
            mask.shape,
            strict=True,
        )
    )
    return z, y, x


def without_small(objects: NDArray[np.int32], min_size_um3: float, spacing: Spacing) -> NDArray[np.int32]:
    """Objects of at least that size, renumbered 1…N."""
    sizes = np.bincount(objects.ravel())
    kept = sizes * float(np.prod(spacing)) >= max(min_size_um3, 1e-12)
    kept[:1] = False
    table = np.cumsum(kept, dtype=np.int32)
    table[~kept] = 0
    return table[objects]


def halo(decoding: ObjectDecoding, spacing: Spacing) -> ZYX:
    """Voxels around a block that its seeds and its watershed need, on each side."""
    if decoding.method == "components":
        return (0, 0, 0)
    reach = seed_reach(decoding, spacing)
    z, y, x = (near + ceil(decoding.context_um / size) for near, size in zip(reach, spacing, strict=True))
    return (z, y, x)


def seed_reach(decoding: ObjectDecoding, spacing: Spacing) -> ZYX:
    """Voxels around a voxel that decide whether it is a seed."""
    depth = decoding.context_um / 2 if _needs_depth(decoding) else 0.0  # the distance to the surface
    reach = TRUNCATE * decoding.smoothing_um + decoding.seed_distance_um + depth
    z, y, x = (ceil(reach / size) + 2 for size in spacing)
    return (z, y, x)


def decode_block(
    maps: Maps,
    threshold: float,
    decoding: ObjectDecoding,
    spacing: Spacing,
    *,
    origin: ZYX,
    volume_shape: ZYX,
    core: Region,
) -> NDArray[np.int64]:
    """The objects in ``core`` (slices of ``maps``) of a block whose first voxel is ``origin`` in the volume.

    ``maps`` is the core with its :func:`halo`, cut at the ends of the volume. An object's number is 1 + the linear
    index in the volume of its seed (with method components: of its first voxel in the core), the same in every block;
    small objects are not left out. Of an object larger than ``decoding.context_um`` the pieces may get several numbers.
    """
    mask = foreground_of(maps, threshold)
    if decoding.method == "components":
        pieces, _ = ndimage.label(mask[core])
        z, y, x = (first + inner.start for first, inner in zip(origin, core, strict=True))
        return _numbers(_first_voxels(pieces), (z, y, x), volume_shape)[pieces]
    if not mask.any():
        return np.zeros(mask[core].shape, np.int64)
    height = _heights(maps, mask, decoding, spacing)
    seeds = _seeds(height, mask, decoding, spacing)
    numbers = np.arange(1, len(seeds) + 1)
    sure = _is_sure(seeds, mask.shape, origin, volume_shape, seed_reach(decoding, spacing))
    filled = _flood(height, mask, seeds[sure], numbers[sure])[core]
    lacking = mask[core] & (filled == 0)
    if lacking.any() and not sure.all():
        # of objects larger than the context: better named after a seed that others may not see than lost
        filled[lacking] = _flood(height, mask, seeds, numbers)[core][lacking]
    return _numbers(seeds, origin, volume_shape)[filled]


def _numbers(positions: NDArray[np.int64], origin: ZYX, volume_shape: ZYX) -> NDArray[np.int64]:
    """A table from 0, 1, 2 … to 0 and the numbers that positions have in the whole volume."""
    table = np.zeros(len(positions) + 1, np.int64)
    z, y, x = (positions + np.array(origin)).T
    table[1:] = 1 + (z.astype(np.int64) * volume_shape[1] + y) * volume_shape[2] + x
    return table


def _first_voxels(pieces: NDArray[np.integer]) -> NDArray[np.int64]:
    """(N, 3) positions of the first voxel of each of the pieces 1…N."""
    flat = pieces.ravel()
    found = np.flatnonzero(flat)
    _, first = np.unique(flat[found], return_index=True)
    return np.stack(np.unravel_index(found[first], pieces.shape), axis=1).astype(np.int64)


def _is_sure(
    seeds: NDArray[np.int64], shape: tuple[int, ...], origin: ZYX, volume_shape: ZYX, reach: ZYX
) -> NDArray[np.bool_]:
    """Which seeds the block has seen all surroundings of, as the whole volume has them."""
    sure = np.ones(len(seeds), bool)
    for axis in range(3):
        if origin[axis] > 0:
            sure &= seeds[:, axis] >= reach[axis]
        if origin[axis] + shape[axis] < volume_shape[axis]:
            sure &= seeds[:, axis] < shape[axis] - reach[axis]
    return sure


def _needs_depth(decoding: ObjectDecoding) -> bool:
    return decoding.method == "watershed" or decoding.depth_weight > 0


def _heights(maps: Maps, mask: NDArray[np.bool_], decoding: ObjectDecoding, spacing: Spacing) -> NDArray[np.float32]:
    """What has a summit in the middle of each object: the depth in µm, the learned distance (0…1), or their sum."""
    height = np.zeros(mask.shape, np.float32)
    if _needs_depth(decoding):
        height += _depth(mask, spacing, decoding.context_um / 2)
    if decoding.method == "learned":
        height *= np.float32(decoding.depth_weight)
        height += maps[1] * np.float32(1 / 255)
        if decoding.boundary_weight > 0:
            height -= maps[2] * np.float32(decoding.boundary_weight / 255)
    if decoding.smoothing_um > 0:
        sigma = [decoding.smoothing_um / size for size in spacing]
        height = ndimage.gaussian_filter(height, sigma, truncate=TRUNCATE, mode="nearest")
    return height


def _depth(mask: NDArray[np.bool_], spacing: Spacing, unseen_um: float) -> NDArray[np.float32]:
    """How far each voxel is from the background, in µm; the end of the volume is no surface of an object.

    ``unseen_um`` is the depth where there is no background to be distant from.
    """
    if mask.all():
        return np.full(mask.shape, unseen_um, np.float32)
    depth: NDArray[np.float32] = ndimage.distance_transform_edt(mask, sampling=spacing).astype(np.float32)
    return depth


def _seeds(
    height: NDArray[np.float32], mask: NDArray[np.bool_], decoding: ObjectDecoding, spacing: Spacing
) -> NDArray[np.int64]:
    """(N, 3) summits that are high enough and without a higher one within the distance, in the order of voxels.

    Of equal ones within the distance the first counts. A summit is the highest voxel of the box that the ball of the
    distance contains: so there are few of them, and few pairs, in maps of noise as well.
    """
    box = [2 * max(1, int(decoding.seed_distance_um / (3**0.5 * size))) + 1 for size in spacing]
    summit = (height == ndimage.maximum_filter(height, size=box)) & mask & (height >= decoding.seed_level)
    summit = _first_of_plateaus(summit)
    candidates = np.argwhere(summit)
    if len(candidates) < 2:
        return candidates
    heights = height[summit]
    radius = max(decoding.seed_distance_um, 1.01 * float(np.linalg.norm(spacing)))
    pairs = KDTree(candidates * np.array(spacing)).query_pairs(radius, output_type="ndarray")
    first, second = pairs.min(axis=1), pairs.max(axis=1)
    first_wins = heights[first] >= heights[second]
    beaten = np.zeros(len(candidates), bool)
    beaten[np.where(first_wins, second, first)] = True
    return candidates[~beaten]


def _first_of_plateaus(summit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the summits next to an earlier one, which is as high: a level region, such as saturated maps have, would
    be all candidates, and their pairs more than fit the memory."""
    padded = np.pad(summit, 1)
    steps = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    before = [offset for step in product((-1, 0, 1), repeat=3) if (offset := int(np.dot(step, steps))) < 0]
    flat = padded.ravel()
    places = np.flatnonzero(flat)
    follows = np.zeros(len(places), bool)
    for offset in before:
        follows |= flat[places + offset]
    first = np.zeros_like(flat)
    first[places[~follows]] = True
    return first.reshape(padded.shape)[1:-1, 1:-1, 1:-1]


def _flood(
    height: NDArray[np.float32], mask: NDArray[np.bool_], seeds: NDArray[np.int64], numbers: NDArray[np.integer]
) -> NDArray[np.int32]:
    """Fill the foreground downhill from the seeds."""
    from skimage.segmentation import watershed

    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(seeds.T)] = numbers
    filled: NDArray[np.int32] = watershed(-height, markers, mask=mask)
    return filled
