"""Random variation of training patches by MONAI's transforms, reproducible by a seed.

Every augmentation is a MONAI dictionary transform of an ``image`` and a ``label``, both (1, Z, Y, X). MONAI's own are
taken wherever they do what is meant; the few others, in `nets.transforms`, say why they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.nets.geometry import Geometry
from napari_celltrain.registry import Registry
from napari_celltrain.values import config
from napari_celltrain.values.config import Augmentation, AugmentationSpec, Spacing

if TYPE_CHECKING:
    from monai.transforms.transform import Transform

TransformBuilder = Callable[[Any, Geometry], "Transform"]
"""Takes the class of `config` that is named at its registration, gives a transform of `IMAGE`, or of `BOTH` alike."""

AUGMENTATIONS: Registry[TransformBuilder] = Registry("augmentation")
"""In the order in which they act, whatever the order in the configuration: first what changes places, then what
changes sharpness, then brightness; noise comes last, as it does in a camera."""

Float = NDArray[np.float32]
IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)

# A patch is placed by the same seed; without this, where it lies and how it is turned would come from the same random
# numbers.
_STREAM = 0x617567


class Augmenter:
    """Applies the augmentations to one patch after another.

    What it does to a patch follows from the seed alone, but MONAI's transforms keep what they have drawn until they
    have applied it: each thread needs an augmenter of its own.
    """

    def __init__(self, specs: Sequence[Augmentation], voxel_size: Spacing | None) -> None:
        from monai.transforms.compose import Compose

        from napari_celltrain.nets.transforms import RandDeformd

        geometry = Geometry.of(voxel_size)
        by_name: dict[str, Augmentation] = {spec.name: spec for spec in specs if spec.probability > 0}
        chosen = [entry.build(by_name[entry.key], geometry) for entry in AUGMENTATIONS if entry.key in by_name]
        self._transform = Compose(RandDeformd.join(chosen))

    def __call__(self, image_ZYX: Float, target_ZYX: NDArray[np.uint8], seed: int) -> tuple[Float, NDArray[np.uint8]]:
        """Contiguous arrays of the same shape and type, decided by the arguments alone.

        Where nothing was drawn they may be the arrays given, which are never written to. ``seed`` must not be negative.
        """
        import torch
        from monai.utils.type_conversion import convert_to_numpy

        (state,) = np.random.SeedSequence((seed, _STREAM)).generate_state(1)
        self._transform.set_random_state(seed=int(state))
        # torch takes no negative strides, and warns of what cannot be written to
        arrays = (np.require(array, requirements=["C", "W"])[None] for array in (image_ZYX, target_ZYX))
        patch = self._transform(dict(zip(BOTH, map(torch.from_numpy, arrays), strict=True)))
        image, target = (convert_to_numpy(patch[key])[0] for key in BOTH)
        return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(target, np.uint8)


def _register(spec: type[AugmentationSpec], label: str) -> Callable[[TransformBuilder], TransformBuilder]:
    """Key and help are those of the class in the configuration."""
    return AUGMENTATIONS.register(spec.model_fields["name"].default, label, " ".join((spec.__doc__ or "").split()))


# --- what changes places: image and target alike --------------------------------------------------------


@_register(config.Flip, "Flips")
def build_flip(spec: config.Flip, geometry: Geometry) -> Transform:
    from monai.transforms.compose import Compose
    from monai.transforms.spatial.dictionary import RandFlipd

    return Compose([RandFlipd(BOTH, spec.probability, spatial_axis=axis) for axis in range(3)])


@_register(config.Rotate90, "90° turns")
def build_rotate90(spec: config.Rotate90, geometry: Geometry) -> Transform:
    from napari_celltrain.nets.transforms import RandKeepShapeRotate90d

    return RandKeepShapeRotate90d(BOTH, spec.probability, geometry)


@_register(config.Elastic, "Elastic deformation")  # after affine: decorators act from the last to the first
@_register(config.Affine, "Rotation, zoom and shear")
def build_deformation(spec: config.Affine | config.Elastic, geometry: Geometry) -> Transform:
    from napari_celltrain.nets.transforms import RandDeformd

    return RandDeformd(BOTH, geometry, spec)


# --- what changes sharpness, then brightness: the image alone -------------------------------------------


@_register(config.Blur, "Blur")
def build_blur(spec: config.Blur, geometry: Geometry) -> Transform:
    from napari_celltrain.nets.transforms import RandChanged, blur

    return RandChanged(IMAGE, spec.probability, blur(spec.sigma, geometry.spacing))


@_register(config.LowResolution, "Low resolution")
def build_low_resolution(spec: config.LowResolution, geometry: Geometry) -> Transform:
    """Nearest voxels on the way down, which keeps the noise, and linear on the way up, as nnU-Net does it."""
    from monai.transforms.spatial.dictionary import RandSimulateLowResolutiond

    from napari_celltrain.nets.transforms import RandChanged, coarsen_planes

    if geometry.plane:
        (across,) = {0, 1, 2} - set(geometry.plane)
        return RandChanged(IMAGE, spec.probability, coarsen_planes(spec.zoom, across))
    return RandSimulateLowResolutiond(
        IMAGE,
        spec.probability,
        # "nearest", MONAI's default, takes the first voxel of those that become one, and so shifts the image.
        downsample_mode="nearest-exact",
        upsample_mode="trilinear",
        zoom_range=spec.zoom,
    )


def _register_intensity(spec: type[AugmentationSpec], label: str, monai_name: str, **parameters: str) -> None:
    """Add the dictionary transform of that name, whose ``parameters`` are the fields of those names."""

    def build(spec: AugmentationSpec, geometry: Geometry) -> Transform:
        from monai import transforms

        values = {parameter: getattr(spec, field) for parameter, field in parameters.items()}
        built: Transform = getattr(transforms, monai_name)(IMAGE, prob=spec.probability, **values)
        return built

    _register(spec, label)(build)


# The curve spans the patch from its darkest to its brightest voxel, so that values below 0 have a place on it.
_register_intensity(config.Contrast, "Contrast", "RandAdjustContrastd", gamma="gamma")
_register_intensity(config.IntensityScale, "Intensity scale", "RandScaleIntensityd", factors="factor")
_register_intensity(config.IntensityShift, "Intensity shift", "RandShiftIntensityd", offsets="offset")
_register_intensity(config.Noise, "Noise", "RandGaussianNoised", std="std")  # its strength is drawn, too
