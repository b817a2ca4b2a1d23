"""What takes sharpness from an image. Arrays are channel-first, (1, Z, Y, X)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.intensity.array import GaussianSmooth
from monai.transforms.spatial.array import RandSimulateLowResolution
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.type_conversion import convert_to_tensor
from torch.nn import functional

from napari_celltrain.config import FloatRange, Spacing

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
