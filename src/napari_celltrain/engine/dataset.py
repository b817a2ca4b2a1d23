"""From a request to a training patch: crop first, then normalize and augment the patch only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_celltrain.config import ZYX, Augmentation, Spacing
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.labels import ClassTarget, LabelScheme
from napari_celltrain.engine.sampler import PatchRequest, index_foreground, place_patch
from napari_celltrain.parts.augmentations import Augmenter
from napari_celltrain.parts.normalization import IntensityStatistics, normalize

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
    ) -> None:
        self.volumes = tuple(volumes)
        self._patch_size = patch_size
        self._foreground_fraction = foreground_fraction
        self._make_augmenter: Callable[[], Augmenter] = lambda: Augmenter(augmentations, voxel_size)
        self._augmented = bool(augmentations)
        self._local = threading.local()

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
