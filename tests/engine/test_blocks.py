"""Predicting by blocks: the same result as for the whole volume, and no work done twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.engine.windows import BlockGrid, WindowGrid
from napari_celltrain.nets.normalize import IntensityStatistics

PLAIN = IntensityStatistics(kind="zscore", offset=0.0, scale=1.0)
WINDOW = (8, 8, 8)


class Counting(nn.Module):
    """A network that looks at its surroundings, and counts the windows that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 3, padding=1))
        self.windows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.windows += len(x)
        return self.layers(x)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Counting(), 2, WINDOW, torch.device("cpu"), NumericFormat(), 2)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(27, 22, 31)).astype(np.float32)


def logits_of(predictor: Predictor, image, region=None) -> np.ndarray:
    return np.concatenate([planes for _, planes in predictor.logits(image, PLAIN, region=region)], axis=1)


@pytest.mark.parametrize("size", [(27, 22, 31), (10, 22, 31), (9, 7, 12), (1, 5, 5), (4, 30, 9)])
def test_blocks_of_any_size_give_the_whole(predictor, image, size):
    whole = logits_of(predictor, image)
    grid = BlockGrid(image.shape, size)
    result = np.full_like(whole, np.nan)
    for number in range(len(grid)):
        region = grid.region(number)
        result[(slice(None), *region)] = logits_of(predictor, image, region)
    np.testing.assert_allclose(result, whole, rtol=1e-4, atol=1e-5)


def test_where_a_column_is_cut_along_z_changes_nothing_at_all(predictor, image):
    plane = (slice(5, 18), slice(0, 20))
    whole = logits_of(predictor, image, (slice(0, 27), *plane))
    parts = [logits_of(predictor, image, (slice(*part), *plane)) for part in ((0, 4), (4, 19), (19, 27))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_blocks_of_one_column_share_their_windows(predictor, image):
    logits_of(predictor, image, (slice(0, 27), slice(0, 22), slice(0, 31)))
    assert predictor.network.windows == len(
        list(itertools.product(*(WindowGrid(image.shape, WINDOW).starts(a) for a in range(3))))
    )


def test_every_voxel_of_a_column_is_read_once(predictor, image):
    read = np.zeros(image.shape, int)

    class Recording:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, key):
            read[key] += 1
            return image[key]

    logits_of(predictor, Recording(), (slice(0, 27), slice(0, 10), slice(8, 20)))
    assert read.max() == 1
    assert (read[:, 0:10, 8:20] == 1).all()


def test_planes_are_numbered_in_the_volume(predictor, image):
    numbers = [first for first, _ in predictor.logits(image, PLAIN, region=(slice(11, 25), slice(0, 22), slice(0, 31)))]
    assert numbers[0] == 11
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("shape", "size"), [((27, 22, 31), (8, 8, 8)), ((5, 5, 5), (9, 2, 5)), ((8, 8, 8), (8, 8, 8))])
def test_a_grid_of_blocks_covers_each_voxel_once(shape, size):
    grid = BlockGrid(shape, size)
    seen = np.zeros(shape, int)
    for number in range(len(grid)):
        assert grid.number(grid.position(number)) == number
        seen[grid.region(number)] += 1
    assert (seen == 1).all()


def test_runs_are_neighbours_in_one_column():
    grid = BlockGrid((30, 20, 10), (10, 10, 10))  # two columns of three blocks
    assert grid.runs([0, 1, 2, 3, 5]) == [[0, 1, 2], [3], [5]]
    assert grid.runs([]) == []
