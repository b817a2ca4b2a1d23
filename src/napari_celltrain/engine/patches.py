"""Which patch comes when: the plan of an epoch, and where in a volume each patch is cut.

All randomness of a patch follows from one number in its request, and the requests of an epoch follow from (seed, epoch)
alone. So runs repeat, resume in the middle of an epoch, and divide among processes, without any state to carry.

From a request to a training patch: crop first, then normalize and augment the patch only.

Batches made ahead of time, in background threads, in the order asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_celltrain.data.labels import IGNORE, ClassTarget, LabelScheme, to_target
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


# --- dataset ---------------------------------------------------------------------------------------------

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class TrainingVolume:
    """One volume, or block of a volume, to train on. ``image`` and ``target`` are indexed by three slices."""

    name: str
    image: LazyArray
    target: LazyArray
    """What is to be learned, in uint8: class indices and ``IGNORE``, or the packed objects of `data.object_target`."""
    statistics: IntensityStatistics
    foreground: NDArray[np.int32]
    """(N, 3) positions of labelled voxels."""

    @property
    def shape(self) -> ZYX:
        z, y, x = self.image.shape
        return (int(z), int(y), int(x))

    @classmethod
    def prepare(
        cls,
        name: str,
        image: LazyArray,
        labels: LazyArray,
        statistics: IntensityStatistics,
        scheme: LabelScheme,
        seed: int,
        target: LazyArray | None = None,
    ) -> TrainingVolume:
        """``target``: what is to be learned, where it is more than the classes of ``labels``."""
        z, y, x = (int(size) for size in image.shape)
        foreground = index_foreground(labels, (z, y, x), scheme, seed)
        return cls(name, image, target or ClassTarget(labels, scheme), statistics, foreground)


@dataclass(frozen=True, slots=True)
class Batch:
    """``image`` (B, 1, Z, Y, X) float32 and ``target`` (B, Z, Y, X) uint8, as in :class:`TrainingVolume`."""

    image: Tensor
    target: Tensor

    @property
    def num_items(self) -> int:
        return int(self.image.shape[0])


class PatchSource:
    """Makes the patches and batches that requests ask for; what it returns depends on the request alone.

    With ``patch_size`` None, whole volumes are given; within a batch the smaller ones are mirrored at their far
    ends up to the largest. Threads may share a source: each gets its own augmenter, since transforms carry state.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        *,
        patch_size: ZYX | None,
        foreground_fraction: float,
        augmentations: Sequence[Augmentation],
        voxel_size: Spacing | None,
        samples_per_volume: int = 1,
    ) -> None:
        self.volumes = tuple(volumes)
        self.samples_per_volume = samples_per_volume
        self._patch_size = patch_size
        self._foreground_fraction = foreground_fraction
        self._make_augmenter: Callable[[], Augmenter] = lambda: Augmenter(augmentations, voxel_size)
        self._augmented = bool(augmentations)
        self._local = threading.local()

    @property
    def patches_per_epoch(self) -> int:
        return len(self.volumes) * self.samples_per_volume

    def patch(self, request: PatchRequest) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image and target (Z, Y, X) of one request: the very arrays that the network gets."""
        volume = self.volumes[request.case]
        size = self._patch_size or volume.shape
        start = place_patch(volume.shape, size, volume.foreground, self._foreground_fraction, request.seed)
        region = tuple(
            slice(first, min(first + length, end)) for first, length, end in zip(start, size, volume.shape, strict=True)
        )
        image = normalize(np.asarray(volume.image[region]), volume.statistics)
        target = np.asarray(volume.target[region])
        image, target = mirror_to(image, size), mirror_to(target, size)
        if not self._augmented:
            return image, target
        if not hasattr(self._local, "augmenter"):
            self._local.augmenter = self._make_augmenter()
        augmented: tuple[NDArray[np.float32], NDArray[np.uint8]] = self._local.augmenter(image, target, request.seed)
        return augmented

    def batch(self, requests: Sequence[PatchRequest]) -> Batch:
        """The patches of all requests, stacked."""
        pairs = [self.patch(request) for request in requests]
        largest = np.max([image.shape for image, _ in pairs], axis=0)
        size = (int(largest[0]), int(largest[1]), int(largest[2]))
        image = np.stack([mirror_to(image, size) for image, _ in pairs])[:, None]
        target = np.stack([mirror_to(target, size) for _, target in pairs])
        return Batch(torch.from_numpy(image), torch.from_numpy(target))


def mirror_to(array_ZYX: NDArray[T], size: ZYX) -> NDArray[T]:
    """Mirror the array at its far ends until it is at least ``size``; as prediction does, so that both see alike."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, array_ZYX.shape, strict=True)]
    if not any(missing):
        return array_ZYX
    return np.pad(array_ZYX, [(0, width) for width in missing], mode="reflect")


# --- loader ----------------------------------------------------------------------------------------------


class Prefetcher:
    """An iterator over batches that keeps ``ahead`` of them ready.

    Threads suffice: cropping, resampling and arithmetic release Python's lock, and nothing is copied between
    processes. The order is that of the requests whatever the number of threads. Use it as a context manager:
    leaving it ends the threads. An error in a thread is raised where its batch would have come.
    """

    def __init__(
        self,
        make: Callable[[list[PatchRequest]], Batch],
        requests: Iterable[list[PatchRequest]],
        *,
        num_threads: int = 1,
        ahead: int = 3,
    ) -> None:
        self._make = make
        self._requests = iter(requests)
        self._ahead = max(ahead, num_threads)
        # the cores belong to the network: torch's own threads in the transforms would take them, and make results
        # depend on their number; this sets the number for the loader's threads alone
        self._pool = ThreadPoolExecutor(
            num_threads, "celltrain-loader", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._waiting: deque[Future[Batch]] = deque()

    def __enter__(self) -> Prefetcher:
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self._fill()
        if not self._waiting:
            raise StopIteration
        batch = self._waiting.popleft().result()
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._waiting) < self._ahead:
            requests = next(self._requests, None)
            if requests is None:
                return
            self._waiting.append(self._pool.submit(self._make, requests))
