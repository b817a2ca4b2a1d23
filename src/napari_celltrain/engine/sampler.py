"""Which patch comes when: the plan of an epoch, and where in a volume each patch is cut.

All randomness of a patch follows from one number in its request, and the requests of an epoch follow from (seed, epoch)
alone. So runs repeat, resume in the middle of an epoch, and divide among processes, without any state to carry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import ZYX
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target

MAX_INDEXED_VOXELS = 20_000
"""Labelled voxels remembered per volume: enough to reach every object, small for any size of volume."""


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """A patch of training volume number ``case``; ``seed`` decides its place and its augmentation."""

    case: int
    seed: int


def plan_epoch(num_cases: int, samples_per_volume: int, seed: int, epoch: int) -> list[PatchRequest]:
    """Every volume ``samples_per_volume`` times, in a random order."""
    cases = np.repeat(np.arange(num_cases), samples_per_volume)
    rng = np.random.default_rng([seed, epoch])
    rng.shuffle(cases)
    seeds = rng.integers(0, 2**32, size=len(cases))
    return [PatchRequest(int(case), int(patch_seed)) for case, patch_seed in zip(cases, seeds, strict=True)]


def plan_batches(
    num_cases: int,
    samples_per_volume: int,
    batch_size: int,
    seed: int,
    *,
    first_epoch: int,
    first_step: int,
    last_epoch: int,
) -> Iterator[list[PatchRequest]]:
    """The batches of the epochs given, one after the other, from step ``first_step`` (from 0) of the first epoch.

    The last batch of an epoch may be smaller: every patch of the plan is used once.
    """
    for epoch in range(first_epoch, last_epoch + 1):
        plan = plan_epoch(num_cases, samples_per_volume, seed, epoch)
        start = first_step * batch_size if epoch == first_epoch else 0
        for index in range(start, len(plan), batch_size):
            yield plan[index : index + batch_size]


def index_foreground(labels: LazyArray, shape: ZYX, scheme: LabelScheme, seed: int) -> NDArray[np.int32]:
    """Positions (N, 3) of labelled voxels, spread over the volume, for placing patches.

    ``labels`` is anything that three slices index. It is read in slabs, so memory stays flat. Of classes, each gets
    an equal share, so that a rare one is seen.
    """
    rng = np.random.default_rng([seed, *shape])
    slab = max(1, int(2**24 / max(1, shape[1] * shape[2])))
    found: dict[int, list[NDArray[np.int32]]] = {}
    num_slabs = -(-shape[0] // slab)
    for start in range(0, shape[0], slab):
        part = np.asarray(labels[start : start + slab, :, :])
        target = to_target(part, scheme)
        for value in np.unique(target):
            if value in (0, IGNORE):
                continue
            flat = np.flatnonzero(target == value)
            keep = -(-MAX_INDEXED_VOXELS * 4 // num_slabs)
            if len(flat) > keep:
                flat = rng.choice(flat, keep, replace=False)
            positions = np.stack(np.unravel_index(flat, target.shape), axis=1).astype(np.int32)
            positions[:, 0] += start
            found.setdefault(int(value), []).append(positions)
    if not found:
        return np.zeros((0, 3), np.int32)
    share = MAX_INDEXED_VOXELS // len(found)
    picked = []
    for parts in found.values():
        positions = np.concatenate(parts)
        # fewer than a class's share are repeated, so that a rare class is drawn as often as a common one
        picked.append(rng.choice(positions, share, replace=len(positions) < share))
    return np.concatenate(picked)


def place_patch(
    shape: ZYX, patch_size: ZYX, foreground: NDArray[np.int32], foreground_fraction: float, seed: int
) -> ZYX:
    """First voxel of a patch inside a volume of ``shape``; 0 along axes where the volume is no larger.

    With probability ``foreground_fraction`` the patch contains a random labelled voxel, anywhere in the patch
    rather than at its centre, so that the borders of a volume are seen as often as its middle.
    """
    rng = np.random.default_rng([seed, 1])
    room = [max(0, size - patch) for size, patch in zip(shape, patch_size, strict=True)]
    start = [int(rng.integers(0, space + 1)) for space in room]
    if len(foreground) and rng.random() < foreground_fraction:
        voxel = foreground[rng.integers(len(foreground))]
        start = [
            int(np.clip(position - rng.integers(patch), 0, space))
            for position, patch, space in zip(voxel, patch_size, room, strict=True)
        ]
    return (start[0], start[1], start[2])
