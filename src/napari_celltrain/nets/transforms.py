"""Transforms of patches that MONAI lacks. Arrays of the transforms are channel-first, (1, Z, Y, X).

Deformation is affine and elastic in one resampling: image linear, labels nearest. It is written in NumPy, block by
block, for speed: on one core a patch of 48 x 96 x 96 voxels takes 12 ms (15 ms with the elastic field), 38 ms with
SciPy's `map_coordinates`, 48 ms with torch's `grid_sample`, 61 ms with MONAI's `RandAffined`, and 304 ms with its
`Rand3DElasticd`, which always deforms both ways, neither in the plane only nor safe from folding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.intensity.array import GaussianSmooth
from monai.transforms.spatial.array import RandSimulateLowResolution
from monai.transforms.spatial.dictionary import RandRotate90d
from monai.transforms.transform import MapTransform, RandomizableTransform, Transform
from monai.utils.type_conversion import convert_to_numpy, convert_to_tensor
from numpy.typing import NDArray
from torch.nn import functional

from napari_celltrain.io.axes import zyx
from napari_celltrain.nets.geometry import ANISOTROPY_LIMIT, Geometry
from napari_celltrain.values import config
from napari_celltrain.values.config import ZYX, Spacing

Float = NDArray[np.float32]
Patch = Mapping[Hashable, torch.Tensor]
Change = Callable[[torch.Tensor, np.random.RandomState], torch.Tensor]
"""Of an image (1, Z, Y, X); it may draw random numbers."""

# Half of MONAI's kernel, in sigmas: `truncated` of its GaussianFilter.
_KERNEL_REACH = 4.0
# Planes done at once: the temporaries of a block of 96 x 96 planes then stay in the processor's cache (2 x faster).
_VOXELS_PER_BLOCK = 32_768
# A cubic B-spline field cannot fold while its coefficients stay below 1 / 2.48 of their distance:
# Choi and Lee 2000, https://doi.org/10.1006/gmod.1999.0513
_LARGEST_COEFFICIENT = 0.4


class RandChanged(RandomizableTransform, MapTransform):
    """Applies ``change`` to the image as often as its probability says; both draw from one stream of random numbers."""

    def __init__(self, keys: KeysCollection, prob: float, change: Change) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self._change = change

    def __call__(self, data: Patch) -> dict[Hashable, torch.Tensor]:
        patch = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(patch):
                patch[key] = self._change(convert_to_tensor(patch[key], track_meta=False), self.R)
        return patch


def blur(sigma: tuple[float, float], spacing: Spacing) -> Change:
    """MONAI's `GaussianSmooth`, with one sigma drawn for all axes, and the border repeated beyond the patch.

    ``sigma`` is in voxels of the finest axis; along the others it is as long in micrometres. MONAI's
    `RandGaussianSmoothd` draws a sigma for each axis, and takes what lies beyond the patch as 0: a blur by 1 voxel
    then takes a third of its brightness from each face of the patch.
    """

    def change(image: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
        drawn = rng.uniform(*sigma)
        sigmas = [drawn / size for size in spacing]
        borders = [int(_KERNEL_REACH * each + 0.5) for each in sigmas]
        both_sides = [border for border in reversed(borders) for _ in range(2)]  # torch pads from the last axis on
        blurred: torch.Tensor = GaussianSmooth(sigmas)(functional.pad(image, both_sides, mode="replicate"))
        for axis, border in enumerate(borders, start=1):
            blurred = blurred.narrow(axis, border, image.shape[axis])
        return blurred

    return change


def coarsen_planes(zoom_range: tuple[float, float], across: int) -> Change:
    """MONAI's `RandSimulateLowResolution` in the planes across one axis.

    `RandSimulateLowResolutiond` shrinks along all axes alike, also along one that is coarse already. To it, the planes
    here are the channels of one image of two dimensions.
    """
    coarsen = RandSimulateLowResolution(
        prob=1.0, downsample_mode="nearest-exact", upsample_mode="bilinear", zoom_range=zoom_range
    )

    def change(image: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
        coarsen.set_random_state(state=rng)
        planes: torch.Tensor = convert_to_tensor(coarsen(image[0].movedim(across, 0)), track_meta=False)
        return planes.movedim(0, across)[None]

    return change


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

    def __call__(self, data: Patch, lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        shape = data[self.keys[0]].shape[1:]
        self._choices = []
        for plane in [self._geometry.plane] if self._geometry.plane else [(1, 2), (0, 2), (0, 1)]:
            short, long = sorted(self._geometry.spacing[axis] for axis in plane)
            is_square = shape[plane[0]] == shape[plane[1]] and long <= ANISOTROPY_LIMIT * short
            self._choices += [(plane, times) for times in ((1, 2, 3) if is_square else (2,))]
        return dict(super().__call__(data, lazy))


class RandDeformd(RandomizableTransform, MapTransform):
    """Affine and elastic deformation, each as often as its probability says, composed into one resampling.

    ``keys`` names the image, which is interpolated linearly, and the labels, which get the nearest voxel's. Why not
    MONAI's `RandAffined` and `Rand3DElasticd`: one after the other they resample twice, and are slower (see above).
    """

    def __init__(self, keys: tuple[str, str], geometry: Geometry, *specs: config.Affine | config.Elastic) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self._keys = keys
        self._geometry = geometry
        self._specs = specs
        self._deformation = Deformation()

    def randomize(self, data: ZYX) -> None:
        """Draw a deformation of a patch of that shape."""
        self._deformation = deformation = Deformation()
        for spec in self._specs:
            if self.R.random_sample() >= spec.probability:
                continue
            if isinstance(spec, config.Affine):
                deformation.matrix = draw_affine(self.R, self._geometry, spec.rotation, spec.scaling, spec.shear)
            elif (magnitude := self.R.uniform(*spec.magnitude)) > 0:
                deformation.elastic = draw_elastic(self.R, data, self._geometry, spec.spacing, magnitude)

    def __call__(self, data: Patch) -> dict[Hashable, torch.Tensor]:
        patch = dict(data)
        image, labels = (convert_to_numpy(patch[key])[0] for key in self._keys)
        self.randomize(zyx(image.shape))
        if not self._deformation.is_identity:
            parts: tuple[NDArray[Any], ...] = resample(image.astype(np.float32, copy=False), labels, self._deformation)
            patch |= {key: torch.from_numpy(part[None]) for key, part in zip(self._keys, parts, strict=True)}
        return patch

    @classmethod
    def join(cls, transforms: Iterable[Transform]) -> list[Transform]:
        """The same transforms, with deformations that follow on one another made one: voxels are resampled once."""
        joined: list[Transform] = []
        for transform in transforms:
            if joined and isinstance(transform, cls) and isinstance(previous := joined[-1], cls):
                joined[-1] = cls(previous._keys, previous._geometry, *previous._specs, *transform._specs)
            else:
                joined.append(transform)
        return joined


# --- the deformation itself -----------------------------------------------------------------------------


@dataclass(slots=True)
class Deformation:
    """For every voxel of the result the place that it is taken from: matrix · (voxel − centre) + centre + shift."""

    matrix: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    """In voxels, axes z, y, x."""
    elastic: ElasticField | None = None

    @property
    def is_identity(self) -> bool:
        return not any(map(self.moves, range(3)))

    def moves(self, axis: int) -> bool:
        """Whether anything is displaced along the axis; if not, nothing is interpolated along it."""
        is_shifted = self.elastic is not None and axis in self.elastic.axes
        return is_shifted or not np.array_equal(self.matrix[axis], np.eye(3)[axis])


@dataclass(frozen=True, slots=True)
class ElasticField:
    """A smooth displacement: cubic B-splines on a coarse grid of coefficients."""

    axes: tuple[int, ...]
    """The axes along which it displaces, one for each of the coefficients' first axis."""
    coefficients: Float
    """(axes, Z, Y, X), in voxels."""
    weights: tuple[Float, Float, Float]
    """For z, y and x: (voxels, coefficients), how much each coefficient counts at each voxel."""

    def block(self, start: int, stop: int) -> Float:
        """Displacements (planes, axes, Y, X) in the planes from start to stop."""
        planes = np.tensordot(self.weights[0][start:stop], self.coefficients, axes=(1, 1))
        # Stacked products of small matrices: OpenBLAS does each of them in the calling thread.
        return np.asarray(np.matmul(np.matmul(self.weights[1], planes), self.weights[2].T))


def draw_elastic(
    rng: np.random.RandomState, shape: ZYX, geometry: Geometry, spacing: int, magnitude: float
) -> ElasticField:
    """Random displacements of typically ``magnitude`` voxels, at points ``spacing`` voxels apart; they never fold."""
    z, y, x = (_spline_weights(length, spacing) for length in shape)
    grid = (len(geometry.axes), z.shape[1], y.shape[1], x.shape[1])
    # The spline averages independent neighbours, which halves the variance along each of the three axes.
    deviation = magnitude * 2**1.5
    limit = _LARGEST_COEFFICIENT * spacing
    coefficients = np.clip(rng.standard_normal(grid) * deviation, -limit, limit)
    return ElasticField(geometry.axes, coefficients.astype(np.float32), (z, y, x))


def _spline_weights(length: int, spacing: int) -> Float:
    position = np.arange(length) / spacing
    first = position.astype(int)
    u = position - first
    parts = [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
    weights = np.zeros((length, int(first[-1]) + 4), np.float32)
    for offset, part in enumerate(parts):
        weights[np.arange(length), first + offset] = part / 6
    return weights


def draw_affine(
    rng: np.random.RandomState, geometry: Geometry, rotation: float, zoom: tuple[float, float], shear: float
) -> NDArray[np.float64]:
    """A random matrix in voxels. It rotates in micrometres, so that objects keep their shape in uneven voxels.

    ``rotation`` in degrees about each axis, or about the one axis that is across the plane; ``zoom`` above 1 enlarges.
    """
    axes = geometry.axes
    # A zoom and its inverse are equally likely.
    scale = np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1])))
    matrix = np.eye(3)
    for first, second in product(axes, repeat=2):
        matrix[first, second] = (1 if first == second else rng.uniform(-shear, shear)) / scale
    for first, second in combinations(axes, 2):
        angle = np.deg2rad(rng.uniform(-rotation, rotation))
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    spacing = np.asarray(geometry.spacing)
    return np.asarray(matrix * spacing / spacing[:, None])


def resample(image: Float, target: NDArray[np.uint8], deformation: Deformation) -> tuple[Float, NDArray[np.uint8]]:
    """Both deformed alike; what comes from beyond the patch is its mirror image."""
    shape = image.shape
    image, target = np.ascontiguousarray(image), np.ascontiguousarray(target)
    image_out, target_out = np.empty_like(image), np.empty_like(target)
    planes = max(1, _VOXELS_PER_BLOCK // (shape[1] * shape[2]))
    for start in range(0, shape[0], planes):
        stop = min(start + planes, shape[0])
        corner, fractions, nearest = _locate(deformation, image.shape, start, stop)
        image_out[start:stop] = _interpolate(image.ravel(), corner, fractions)
        target_out[start:stop] = target.ravel().take(nearest, mode="wrap")
    return image_out, target_out


def _locate(
    deformation: Deformation, shape: tuple[int, ...], start: int, stop: int
) -> tuple[NDArray[np.intp], list[tuple[int, Float]], NDArray[np.intp]]:
    """Where the planes from start to stop are taken from, as indices into the flattened patch.

    Gives the lower corner of the cell that each voxel falls into, its place in that cell along each moved axis (with
    the axis's step in memory), and the nearest voxel.
    """
    steps = (shape[1] * shape[2], shape[2], 1)
    shifts = deformation.elastic.block(start, stop) if deformation.elastic else None
    corner = np.zeros((stop - start, shape[1], shape[2]), np.int32)
    rounding = np.zeros_like(corner)
    fractions: list[tuple[int, Float]] = []
    for axis in range(3):
        if shape[axis] == 1 or not deformation.moves(axis):
            still = np.arange(start, stop) if axis == 0 else np.arange(shape[axis])
            corner += np.expand_dims(still.astype(np.int32) * np.int32(steps[axis]), [a for a in range(3) if a != axis])
            continue
        z, y, x = (
            (np.arange(length) - (length - 1) / 2) * factor
            for length, factor in zip(shape, deformation.matrix[axis], strict=True)
        )
        plane = (z[start:stop, None, None] + y[:, None] + (shape[axis] - 1) / 2).astype(np.float32)
        place: Float = plane + x.astype(np.float32)
        if shifts is not None and deformation.elastic and axis in deformation.elastic.axes:
            place += shifts[:, deformation.elastic.axes.index(axis)]
        _mirror(place, shape[axis] - 1)
        lower = np.minimum(place.astype(np.int32), shape[axis] - 2)
        place -= lower
        corner += lower * np.int32(steps[axis])
        rounding += (place > 0.5) * np.int32(steps[axis])
        fractions.append((steps[axis], place))
    first = corner.astype(np.intp)
    return first, fractions, first + rounding


def _mirror(place: Float, last: int) -> None:
    """Fold places beyond 0 and ``last`` back in, in place, as often as it takes."""
    while True:
        np.abs(place, out=place)
        place -= last
        np.abs(place, out=place)
        np.subtract(np.float32(last), place, out=place)
        if place.min() >= 0:
            return


def _interpolate(flat: Float, corner: NDArray[np.intp], fractions: list[tuple[int, Float]], offset: int = 0) -> Float:
    """Linear along each of the axes in ``fractions``, from the outermost to the innermost."""
    if not fractions:
        # Corners lie inside, so no mode is needed; "wrap" is taken because it is faster than the check of "raise".
        return flat[offset:].take(corner, mode="wrap")
    (step, fraction), *inner = fractions
    lower: Any = _interpolate(flat, corner, inner, offset)
    upper = _interpolate(flat, corner, inner, offset + step)
    upper -= lower
    upper *= fraction
    upper += lower
    return upper
