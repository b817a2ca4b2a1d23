"""Which patch comes when, how it is cut from its volume and augmented, and batches made ahead of time.

All randomness of a patch follows from one number in its request, and the requests of an epoch follow from (seed, epoch)
alone. So runs repeat, resume in the middle of an epoch, and divide among processes, without any state to carry.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.nets.augment import Augmenter
from napari_celltrain.nets.normalize import IntensityStatistics, normalize
from napari_celltrain.values.config import ZYX, Augmentation, Spacing

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
    num_cases: int, samples_per_volume: int, batch_size: int, seed: int, epochs: range, first_step: int = 0
) -> Iterator[list[PatchRequest]]:
    """The batches of ``epochs``, one after the other, from step ``first_step`` (from 0) of the first one.

    The last batch of an epoch may be smaller: every patch of the plan is used once.
    """
    start = first_step * batch_size
    for epoch in epochs:
        plan = plan_epoch(num_cases, samples_per_volume, seed, epoch)
        yield from (plan[index : index + batch_size] for index in range(start, len(plan), batch_size))
        start = 0


def index_foreground(labels: LazyArray, scheme: LabelScheme, seed: int) -> NDArray[np.int32]:
    """Positions (N, 3) of labelled voxels, spread over the volume, for placing patches.

    ``labels`` is anything that three slices index. It is read in slabs, so memory stays flat. Of classes, each gets
    an equal share, so that a rare one is seen.
    """
    shape = zyx(labels.shape)
    rng = np.random.default_rng([seed, *shape])
    slab = max(1, 2**24 // max(1, shape[1] * shape[2]))
    keep = -(-MAX_INDEXED_VOXELS * 4 // -(-shape[0] // slab))
    found: dict[int, list[NDArray[np.int32]]] = {}
    for start in range(0, shape[0], slab):
        target = to_target(np.asarray(labels[start : start + slab, :, :]), scheme)
        for value in np.setdiff1d(target, (0, IGNORE)):
            flat = np.flatnonzero(target == value)
            if len(flat) > keep:
                flat = rng.choice(flat, keep, replace=False)
            positions = np.stack(np.unravel_index(flat, target.shape), axis=1).astype(np.int32)
            positions[:, 0] += start
            found.setdefault(int(value), []).append(positions)
    picked = [np.zeros((0, 3), np.int32)]
    for parts in found.values():
        positions = np.concatenate(parts)
        share = MAX_INDEXED_VOXELS // len(found)
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
    start = [rng.integers(0, space + 1) for space in room]
    if len(foreground) and rng.random() < foreground_fraction:
        voxel = foreground[rng.integers(len(foreground))]
        start = [
            np.clip(position - rng.integers(patch), 0, space)
            for position, patch, space in zip(voxel, patch_size, room, strict=True)
        ]
    return zyx(start)


@dataclass(frozen=True, slots=True)
class TrainingVolume:
    """One volume, or block of a volume, to train on. ``image`` and ``target`` are indexed by three slices."""

    image: LazyArray
    target: LazyArray
    """What is to be learned, in uint8: class indices and ``IGNORE``, or packed objects (`labels.encode_objects`)."""
    statistics: IntensityStatistics
    foreground: NDArray[np.int32]
    """(N, 3) positions of labelled voxels."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``image`` (B, 1, Z, Y, X) float32 and ``target`` (B, Z, Y, X) uint8, as in :class:`TrainingVolume`."""

    image: Tensor
    target: Tensor


@dataclass(frozen=True)
class PatchSource:
    """Makes the patches and batches that requests ask for; what it returns depends on the request alone.

    With ``patch_size`` None, whole volumes are given; within a batch the smaller ones are mirrored at their far
    ends up to the largest. Threads may share a source: each gets its own augmenter, since transforms carry state.
    """

    volumes: Sequence[TrainingVolume]
    patch_size: ZYX | None
    foreground_fraction: float
    augmentations: Sequence[Augmentation]
    voxel_size: Spacing | None
    samples_per_volume: int = 1
    _of_this_thread: threading.local = field(default_factory=threading.local)

    @property
    def patches_per_epoch(self) -> int:
        return len(self.volumes) * self.samples_per_volume

    def patch(self, request: PatchRequest) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image and target (Z, Y, X) of one request: the very arrays that the network gets."""
        volume = self.volumes[request.case]
        shape = zyx(volume.image.shape)
        size = self.patch_size or shape
        start = place_patch(shape, size, volume.foreground, self.foreground_fraction, request.seed)
        ends = np.minimum(np.add(start, size), shape)
        region = tuple(map(slice, start, map(int, ends)))
        image = mirror_to(normalize(np.asarray(volume.image[region]), volume.statistics), size)
        target = mirror_to(np.asarray(volume.target[region]), size)
        if not self.augmentations:
            return image, target
        if not hasattr(self._of_this_thread, "augmenter"):
            self._of_this_thread.augmenter = Augmenter(self.augmentations, self.voxel_size)
        augmenter: Augmenter = self._of_this_thread.augmenter
        return augmenter(image, target, request.seed)

    def batch(self, requests: Sequence[PatchRequest]) -> Batch:
        """The patches of all requests, stacked."""
        pairs = [self.patch(request) for request in requests]
        size = zyx(np.max([image.shape for image, _ in pairs], axis=0))
        image = np.stack([mirror_to(image, size) for image, _ in pairs])[:, None]
        target = np.stack([mirror_to(target, size) for _, target in pairs])
        return Batch(torch.from_numpy(image), torch.from_numpy(target))


def mirror_to(array_ZYX: NDArray[Any], size: ZYX) -> NDArray[Any]:
    """Mirror the array at its far ends until it is at least ``size``; as prediction does, so that both see alike."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, array_ZYX.shape, strict=True)]
    if not any(missing):
        return array_ZYX
    return np.pad(array_ZYX, [(0, width) for width in missing], mode="reflect")


@contextmanager
def prefetched(
    make: Callable[[list[PatchRequest]], Batch],
    requests: Iterable[list[PatchRequest]],
    *,
    num_threads: int = 1,
    ahead: int = 3,
) -> Iterator[Iterator[Batch]]:
    """The batches of all requests, in their order, ``ahead`` of them being made in background threads.

    Threads suffice: cropping, resampling and arithmetic release Python's lock, and nothing is copied between
    processes. Leaving the context ends them. An error in a thread is raised where its batch would have come.
    """
    # the cores belong to the network: torch's own threads in the transforms would take them, and make results
    # depend on their number; this sets the number for the loader's threads alone
    pool = ThreadPoolExecutor(num_threads, "celltrain-loader", initializer=torch.set_num_threads, initargs=(1,))
    futures = (pool.submit(make, asked) for asked in requests)

    def batches() -> Iterator[Batch]:
        waiting = deque(islice(futures, max(ahead, num_threads)))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(islice(futures, 1))
            yield batch

    try:
        yield batches()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
