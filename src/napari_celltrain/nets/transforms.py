"""What takes sharpness from an image. Arrays are channel-first, (1, Z, Y, X).

What moves voxels: image and labels alike. Arrays are channel-first, (1, Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.intensity.array import GaussianSmooth
from monai.transforms.spatial.array import RandSimulateLowResolution
from monai.transforms.spatial.dictionary import RandRotate90d
from monai.transforms.transform import MapTransform, RandomizableTransform, Transform
from monai.utils.type_conversion import convert_to_numpy, convert_to_tensor
from torch.nn import functional

from napari_celltrain.nets.deform import Deformation, draw_affine, draw_elastic, resample
from napari_celltrain.nets.geometry import ANISOTROPY_LIMIT, Geometry
from napari_celltrain.values import config
from napari_celltrain.values.config import ZYX, FloatRange, Spacing

# Half of MONAI's kernel, in sigmas: `truncated` of its GaussianFilter.
_KERNEL_REACH = 4.0


class RandBlurd(RandomizableTransform, MapTransform):
    """MONAI's `GaussianSmooth`, with one sigma drawn for all axes, and the border repeated beyond the patch.

    ``sigma`` is in voxels of the finest axis; along the others it is as long in micrometres. MONAI's
    `RandGaussianSmoothd` draws a sigma for each axis, and takes what lies beyond the patch as 0: a blur by 1 voxel
    then takes a third of its brightness from each face of the patch.
    """

    def __init__(self, keys: KeysCollection, prob: float, sigma: FloatRange, spacing: Spacing) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self._range = sigma
        self._spacing = spacing
        self._sigma = sigma[0]

    def randomize(self, data: Any | None = None) -> None:
        super().randomize(data)
        self._sigma = self.R.uniform(*self._range)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        patch = dict(data)
        self.randomize()
        if self._do_transform:
            for key in self.key_iterator(patch):
                patch[key] = self._blur(convert_to_tensor(patch[key], track_meta=False))
        return patch

    def _blur(self, image: torch.Tensor) -> torch.Tensor:
        sigmas = [self._sigma / size for size in self._spacing]
        borders = [int(_KERNEL_REACH * sigma + 0.5) for sigma in sigmas]
        both_sides = [border for border in reversed(borders) for _ in range(2)]  # torch pads from the last axis on
        blurred: torch.Tensor = GaussianSmooth(sigmas)(functional.pad(image, both_sides, mode="replicate"))
        for axis, border in enumerate(borders, start=1):
            blurred = blurred.narrow(axis, border, image.shape[axis])
        return blurred


class RandPlaneLowResolutiond(RandomizableTransform, MapTransform):
    """MONAI's `RandSimulateLowResolution` in the planes across one axis.

    `RandSimulateLowResolutiond` shrinks along all axes alike, also along one that is coarse already. To it, the planes
    here are the channels of one image of two dimensions.
    """

    def __init__(self, keys: KeysCollection, prob: float, zoom_range: FloatRange, across: int) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self._across = across
        self._coarsen = RandSimulateLowResolution(
            prob=1.0, downsample_mode="nearest-exact", upsample_mode="bilinear", zoom_range=zoom_range
        )

    def randomize(self, data: Any | None = None) -> None:
        super().randomize(data)
        self._coarsen.set_random_state(state=self.R)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        patch = dict(data)
        self.randomize()
        if self._do_transform:
            for key in self.key_iterator(patch):
                planes = convert_to_tensor(patch[key], track_meta=False)[0].movedim(self._across, 0)
                coarse = convert_to_tensor(self._coarsen(planes), track_meta=False)
                patch[key] = coarse.movedim(0, self._across)[None]
        return patch


# --- spatial ---------------------------------------------------------------------------------------------


class RandKeepShapeRotate90d(RandRotate90d):
    """MONAI's `RandRotate90d`, with one of several planes drawn, and by 180° only where 90° would not fit.

    MONAI's has one plane and turns by 90° whatever the shape, which would change that of an oblong patch, and of the
    cells where the voxels are oblong.
    """

    def __init__(self, keys: KeysCollection, prob: float, geometry: Geometry) -> None:
        super().__init__(keys, prob)
        self._geometry = geometry
        self._choices: list[tuple[tuple[int, int], int]] = []

    def randomize(self, data: Any | None = None) -> None:
        super().randomize(data)
        self.spatial_axes, self._rand_k = self._choices[self.R.randint(len(self._choices))]

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        z, y, x = data[self.keys[0]].shape[1:]
        planes = [self._geometry.plane] if self._geometry.plane else [(1, 2), (0, 2), (0, 1)]
        self._choices = [(plane, times) for plane in planes for times in self._possible_turns(plane, (z, y, x))]
        return dict(super().__call__(data, lazy))

    def _possible_turns(self, plane: tuple[int, int], shape: ZYX) -> tuple[int, ...]:
        spacings = sorted(self._geometry.spacing[axis] for axis in plane)
        is_square = shape[plane[0]] == shape[plane[1]] and spacings[1] <= ANISOTROPY_LIMIT * spacings[0]
        return (1, 2, 3) if is_square else (2,)


class RandDeformd(RandomizableTransform, MapTransform):
    """Affine and elastic deformation, each as often as its probability says, composed into one resampling.

    ``keys`` names the image, which is interpolated linearly, and the labels, which get the nearest voxel's. Why not
    MONAI's `RandAffined` and `Rand3DElasticd`: one after the other they resample twice, and see `parts.resampling`.
    """

    def __init__(
        self,
        keys: tuple[str, str],
        geometry: Geometry,
        *,
        affine: config.Affine | None = None,
        elastic: config.Elastic | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self._keys = keys
        self._geometry = geometry
        self._affine = affine
        self._elastic = elastic
        self._deformation = Deformation()

    def joined(self, other: RandDeformd) -> RandDeformd:
        """One transform for what the two do."""
        return RandDeformd(
            self._keys,
            self._geometry,
            affine=self._affine or other._affine,
            elastic=self._elastic or other._elastic,
        )

    def randomize(self, data: ZYX) -> None:
        """Draw a deformation of a patch of that shape."""
        deformation = Deformation()
        affine, elastic = self._affine, self._elastic
        if affine and self.R.random_sample() < affine.probability:
            deformation.matrix = draw_affine(self.R, self._geometry, affine.rotation, affine.scaling, affine.shear)
        if elastic and self.R.random_sample() < elastic.probability:
            magnitude = self.R.uniform(*elastic.magnitude)
            if magnitude > 0:
                deformation.elastic = draw_elastic(self.R, data, self._geometry, elastic.spacing, magnitude)
        self._deformation = deformation
        self._do_transform = not deformation.is_identity

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        patch = dict(data)
        image_key, label_key = self._keys
        z, y, x = patch[image_key].shape[1:]
        self.randomize((z, y, x))
        if self._do_transform:
            image, labels = (convert_to_numpy(patch[key])[0] for key in self._keys)
            image, labels = resample(image.astype(np.float32, copy=False), labels, self._deformation)
            patch[image_key], patch[label_key] = torch.from_numpy(image[None]), torch.from_numpy(labels[None])
        return patch


def join_deformations(transforms: Iterable[Transform]) -> list[Transform]:
    """The same transforms, with deformations that follow on one another made one, so that voxels are resampled once."""
    joined: list[Transform] = []
    for transform in transforms:
        previous = joined[-1] if joined else None
        if isinstance(transform, RandDeformd) and isinstance(previous, RandDeformd):
            joined[-1] = previous.joined(transform)
        else:
            joined.append(transform)
    return joined
