"""Measurements of objects, against scikit-image's and against solids whose values are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from skimage.measure import regionprops

from label_pairs import random_pair
from napari_celltrain.data.measure import Columns, measuring
from napari_celltrain.values.events import finish

SIZE = (2.0, 0.5, 0.5)


def measure_objects(*arguments: Any) -> Columns:
    return finish(measuring(*arguments))


def ellipsoid(radii: tuple[float, float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    """Centred in its array; radii in the units of the spacing."""
    half = [math.ceil(radius / step) + 2 for radius, step in zip(radii, spacing, strict=True)]
    grid = np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij")
    inside = sum((axis * s / r) ** 2 for axis, s, r in zip(grid, spacing, radii, strict=True))
    return (inside <= 1).astype(np.uint8)


@pytest.mark.parametrize("spacing", [None, SIZE])
def test_agrees_with_regionprops_of_the_whole_volume(spacing: tuple[float, float, float] | None) -> None:
    labels, _ = random_pair(2)
    image = np.random.default_rng(0).integers(0, 4000, labels.shape).astype(np.uint16)
    columns = measure_objects(labels, [image], spacing)
    unit = "um" if spacing else "voxels"
    regions = regionprops(labels, image, spacing=spacing or (1, 1, 1))
    assert columns["label"].tolist() == [region.label for region in regions]
    expected = {
        f"centroid_z_{unit}": [region.centroid[0] for region in regions],
        f"centroid_x_{unit}": [region.centroid[2] for region in regions],
        f"volume_{unit}{'3' if spacing else ''}": [region.area for region in regions],
        f"equivalent_diameter_{unit}": [region.equivalent_diameter_area for region in regions],
        f"axis_major_length_{unit}": [region.axis_major_length for region in regions],
        f"axis_minor_length_{unit}": [region.axis_minor_length for region in regions],
        "extent": [region.extent for region in regions],
        "intensity_mean": [region.intensity_mean for region in regions],
        "intensity_min": [region.intensity_min for region in regions],
        "intensity_max": [region.intensity_max for region in regions],
        "intensity_std": [region.intensity_std for region in regions],
    }
    for name, values in expected.items():
        assert columns[name] == pytest.approx(values), name


def test_boxes_are_those_of_regionprops() -> None:
    labels, _ = random_pair(3)
    columns = measure_objects(labels)
    starts = np.stack([columns[f"box_{axis}_start"] for axis in "zyx"], axis=1)
    stops = np.stack([columns[f"box_{axis}_stop"] for axis in "zyx"], axis=1)
    assert [(*start, *stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)] == [
        region.bbox for region in regionprops(labels)
    ]


def test_axes_of_an_ellipsoid_in_micrometres() -> None:
    columns = measure_objects(ellipsoid((16.0, 8.0, 4.0), (1.0, 0.5, 0.25)), [], (1.0, 0.5, 0.25))
    lengths = [columns[f"axis_{axis}_length_um"][0] for axis in ("major", "middle", "minor")]
    assert lengths == pytest.approx([32, 16, 8], rel=0.02)
    assert columns["elongation"][0] == pytest.approx(2, rel=0.02)
    assert columns["flatness"][0] == pytest.approx(2, rel=0.02)


def test_surface_and_sphericity_of_a_ball() -> None:
    """The steps of the voxels make the surface larger by about a tenth, on any grid."""
    columns = measure_objects(ellipsoid((10.0, 10.0, 10.0), (1.0, 0.5, 0.5)), [], (1.0, 0.5, 0.5))
    assert columns["surface_area_um2"][0] == pytest.approx(4 * math.pi * 100, rel=0.13)
    assert 0.87 < columns["sphericity"][0] <= 1


def test_solidity_tells_a_box_from_an_l() -> None:
    labels = np.zeros((6, 12, 12), np.uint8)
    labels[1:5, 1:5, 1:5] = 1
    labels[1:5, 6:10, 1:5] = 2
    labels[1:5, 6:8, 3:5] = 0  # a quarter of the square: its hull is a square without a corner
    assert measure_objects(labels)["solidity"] == pytest.approx([1, 12 / 14])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (3, 1, 1), (1, 1, 2), (4, 4, 1)])
def test_flat_and_tiny_objects_have_empty_cells_where_nothing_is_defined(shape: tuple[int, int, int]) -> None:
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[tuple(slice(1, 1 + length) for length in shape)] = 4
    columns = measure_objects(labels, [labels], SIZE)
    assert columns["volume_voxels"].tolist() == [math.prod(shape)]
    assert columns["solidity"].tolist() == [1]
    assert columns["axis_minor_length_um"].tolist() == [0]
    assert np.isnan(columns["flatness"]).tolist() == [True]
    assert 0 < columns["sphericity"][0] <= 1


def test_no_object_gives_empty_columns() -> None:
    columns = measure_objects(np.zeros((3, 4, 5), np.uint8), [], SIZE)
    assert {len(values) for values in columns.values()} == {0}
    assert next(iter(columns)) == "label"


def test_names_tell_whether_lengths_are_in_micrometres() -> None:
    labels = ellipsoid((3, 3, 3), (1, 1, 1))
    with_size, without = measure_objects(labels, [], SIZE), measure_objects(labels)
    assert {"volume_um3", "volume_voxels", "surface_area_um2", "axis_major_length_um"} <= set(with_size)
    assert not [name for name in without if "um" in name.split("_")[-1]]


def test_touching_the_border() -> None:
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2], labels[0, 2, 2], labels[2, 2, 4] = 1, 2, 3
    assert measure_objects(labels)["touches_border"].tolist() == [False, True, True]


def test_several_channels() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    columns = measure_objects(labels, [labels * 3, labels * 5])
    assert (columns["intensity_mean_0"][0], columns["intensity_sum_1"][0]) == (3, 40)


def test_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        measure_objects(np.ones((2, 2, 2), np.uint8), [np.ones((2, 2, 3), np.uint8)])


def test_progress_counts_the_objects() -> None:
    labels, _ = random_pair(2)
    number = len(set(np.unique(labels)) - {0})
    assert list(measuring(labels)) == [(done, number) for done in range(number + 1)]


def test_the_generator_can_be_closed_half_way() -> None:
    steps = measuring(random_pair(2)[0])
    assert next(steps)[0] == 0
    steps.close()
    assert list(steps) == []


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_numbers_beyond_the_signed_ones_are_measured(number: int) -> None:
    labels = np.zeros((4, 8, 8), np.uint64)
    labels[1:3, 1:3, 1:3] = number
    labels[1:3, 5:7, 5:7] = 7
    columns = finish(measuring(labels))
    assert sorted(columns["label"].tolist()) == [7, number]
    assert columns["volume_voxels"].tolist() == [8, 8]
