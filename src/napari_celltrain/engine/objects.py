"""From the probability maps of a network to numbered objects, of a whole volume or of a block of it.

Maps are uint8 (C, Z, Y, X) in steps of 1/255: the foreground, and where objects were learned their distance and
boundary (`decoding.OBJECT_MAPS`). Touching objects are separated by seeds, the peaks of a seed map, from which a
watershed (Beucher and Lantuéjoul 1979) fills the foreground.

Whether a voxel is a seed depends on its surroundings alone. So blocks that overlap find the same seeds, and an object
is named by its seed: whatever blocks it crosses, it has one name in all of them.
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from napari_celltrain.io.axes import Region, with_margins, zyx
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.decoding import ObjectDecoding

Maps = NDArray[np.uint8]

TRUNCATE = 3.0  # reach of the smoothing, in sigmas
MAX_SIGMA = 1000.0  # voxels; more is as level, and takes for ever


def quantize(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Probabilities 0…1 in 255 steps; half of them is then decided exactly."""
    return np.asarray(np.floor(probabilities * np.float32(255) + np.float32(0.5)), np.uint8)


def foreground_of(maps: Maps, threshold: float) -> NDArray[np.bool_]:
    """Where the probability of the first map is at least ``threshold``."""
    return np.asarray(maps[0] >= max(1, ceil(255 * threshold - 1e-6)))


def decode(maps: Maps, threshold: float, decoding: ObjectDecoding, spacing: Spacing) -> NDArray[np.int32]:
    """The objects (Z, Y, X) of a whole volume, numbered 1…N in the order of their first voxels.

    ``spacing`` is the voxel size (z, y, x) in µm.
    """
    mask = foreground_of(maps, threshold)
    objects = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return objects
    # where the foreground is, as most of a volume is often empty, with so much around it that nothing in it is decoded
    # otherwise than in the whole volume
    reach = TRUNCATE * decoding.smoothing_um + decoding.seed_distance_um
    [found] = ndimage.find_objects(mask.view(np.uint8))
    box = with_margins(found, zyx(ceil(reach / size) + 2 for size in spacing), mask.shape)[0]
    if decoding.method == "components":
        ndimage.label(mask[box], output=objects[box])
    else:
        seed_map = _seed_map(maps[(slice(None), *box)], mask[box], decoding, spacing)
        objects[box] = _flood(seed_map, mask[box], _seeds(seed_map, mask[box], decoding, spacing))
    return without_small(objects, decoding.min_size_um3, spacing)


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
    return zyx(near + ceil(decoding.context_um / size) for near, size in zip(reach, spacing, strict=True))


def seed_reach(decoding: ObjectDecoding, spacing: Spacing) -> ZYX:
    """Voxels around a voxel that decide whether it is a seed."""
    depth = decoding.context_um / 2 if _needs_distance_transform(decoding) else 0.0  # how far a surface may be
    reach = TRUNCATE * decoding.smoothing_um + decoding.seed_distance_um + depth
    return zyx(ceil(reach / size) + 2 for size in spacing)


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
    small objects are not left out. An object larger than ``decoding.context_um`` may get several numbers.
    """
    mask = foreground_of(maps, threshold)
    if decoding.method == "components":
        components, _ = ndimage.label(mask[core])
        first = zyx(start + inner.start for start, inner in zip(origin, core, strict=True))
        found = np.flatnonzero(components)
        _, of_found = np.unique(components.ravel()[found], return_index=True)
        first_voxels = np.stack(np.unravel_index(found[of_found], components.shape), axis=1)
        return _numbers(first_voxels, first, volume_shape)[components]
    if not mask.any():
        return np.zeros(mask[core].shape, np.int64)
    seed_map = _seed_map(maps, mask, decoding, spacing)
    seeds = _seeds(seed_map, mask, decoding, spacing)
    reach = seed_reach(decoding, spacing)
    # the seeds of which the block has seen all surroundings, as the whole volume has them
    sure = np.ones(len(seeds), bool)
    for axis in range(3):
        if origin[axis] > 0:
            sure &= seeds[:, axis] >= reach[axis]
        if origin[axis] + mask.shape[axis] < volume_shape[axis]:
            sure &= seeds[:, axis] < mask.shape[axis] - reach[axis]
    filled = _flood(seed_map, mask, seeds, sure)[core]
    lacking = mask[core] & (filled == 0)
    if lacking.any() and not sure.all():
        # of objects larger than the context: better named by a seed that others may not see than lost
        filled[lacking] = _flood(seed_map, mask, seeds)[core][lacking]
    return _numbers(seeds, origin, volume_shape)[filled]


def _numbers(positions: NDArray[np.int64], origin: ZYX, volume_shape: ZYX) -> NDArray[np.int64]:
    """A table from 0, 1, 2 … to 0 and the numbers that positions have in the whole volume."""
    table = np.zeros(len(positions) + 1, np.int64)
    z, y, x = (positions + np.array(origin)).T
    table[1:] = 1 + (z.astype(np.int64) * volume_shape[1] + y) * volume_shape[2] + x
    return table


def _needs_distance_transform(decoding: ObjectDecoding) -> bool:
    return decoding.method == "watershed" or decoding.depth_weight > 0


def _seed_map(maps: Maps, mask: NDArray[np.bool_], decoding: ObjectDecoding, spacing: Spacing) -> NDArray[np.float32]:
    """A map with a peak in the centre of each object: the distance transform in µm, the learned distance (0…1), or
    their sum."""
    seed_map = np.zeros(mask.shape, np.float32)
    if _needs_distance_transform(decoding):
        if mask.all():  # the end of the volume is no surface of an object
            seed_map += decoding.context_um / 2
        else:
            seed_map += ndimage.distance_transform_edt(mask, sampling=spacing).astype(np.float32)
    if decoding.method == "learned":
        seed_map *= np.float32(decoding.depth_weight)
        seed_map += maps[1] * np.float32(1 / 255)
        if decoding.boundary_weight > 0:
            seed_map -= maps[2] * np.float32(decoding.boundary_weight / 255)
    if decoding.smoothing_um > 0:
        sigma = [min(decoding.smoothing_um / size, MAX_SIGMA) for size in spacing]
        seed_map = ndimage.gaussian_filter(seed_map, sigma, truncate=TRUNCATE, mode="nearest")
    return seed_map


def _seeds(
    seed_map: NDArray[np.float32], mask: NDArray[np.bool_], decoding: ObjectDecoding, spacing: Spacing
) -> NDArray[np.int64]:
    """(N, 3) peaks that are high enough and without a higher one within the distance, in the order of voxels.

    Of equal ones within the distance the first counts. A peak is the highest voxel of the box that the ball of the
    distance contains: so there are few of them, and few pairs, in maps of noise as well.
    """
    reach = (max(1, int(decoding.seed_distance_um / (3**0.5 * size))) for size in spacing)
    box = [2 * min(voxels, length) + 1 for voxels, length in zip(reach, mask.shape, strict=True)]
    is_highest = seed_map == ndimage.maximum_filter(seed_map, size=box)
    peaks = _first_of_plateaus(is_highest & mask & (seed_map >= decoding.seed_level))
    candidates = np.argwhere(peaks)
    if len(candidates) < 2:
        return candidates
    heights = seed_map[peaks]
    radius = max(decoding.seed_distance_um, 1.01 * float(np.linalg.norm(spacing)))
    pairs = KDTree(candidates * np.array(spacing)).query_pairs(radius, output_type="ndarray")
    first, second = pairs.min(axis=1), pairs.max(axis=1)
    beaten = np.zeros(len(candidates), bool)
    beaten[np.where(heights[first] >= heights[second], second, first)] = True
    return candidates[~beaten]


def _first_of_plateaus(peaks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the peaks next to an earlier one, which is as high: a level region, such as saturated maps have, would
    be all candidates, and their pairs more than fit the memory."""
    padded = np.pad(peaks, 1)
    steps = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    flat = padded.ravel()
    places = np.flatnonzero(flat)
    follows = np.zeros(len(places), bool)
    for step in product((-1, 0, 1), repeat=3):
        if (offset := int(np.dot(step, steps))) < 0:
            follows |= flat[places + offset]
    first = np.zeros_like(padded)
    first.flat[places[~follows]] = True
    return first[1:-1, 1:-1, 1:-1]


def _flood(
    seed_map: NDArray[np.float32],
    mask: NDArray[np.bool_],
    seeds: NDArray[np.int64],
    used: NDArray[np.bool_] | slice = slice(None),
) -> NDArray[np.int32]:
    """Fill the foreground downhill from the seeds, or those ``used``, with their numbers from 1."""
    from skimage.segmentation import watershed

    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(seeds[used].T)] = np.arange(1, len(seeds) + 1)[used]
    return np.asarray(watershed(-seed_map, markers, mask=mask))
