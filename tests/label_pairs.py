"""Random labelled volumes and predictions of them with every kind of mistake."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint16]


def random_pair(seed: int, shape: tuple[int, int, int] = (10, 28, 28)) -> tuple[Labels, Labels]:
    """Touching objects, and a prediction that has moved, split, merged, lost and invented some."""
    rng = np.random.default_rng(seed)
    truth = cells(rng, shape, int(rng.integers(3, 25)))
    predicted = np.roll(truth, 1, axis=int(rng.integers(0, 3)))
    numbers = [int(number) for number in np.unique(predicted) if number]
    halves = predicted.copy()
    for number in numbers:
        what = rng.integers(0, 9)
        mask = predicted == number
        if what == 0:
            halves[mask] = 0
        elif what == 1:
            halves[mask & (np.indices(shape)[2] > np.nonzero(mask)[2].mean())] = 500 + number
        elif what == 2:
            halves[mask] = numbers[0]
    corner = halves[:2, :3, :3]
    corner[corner == 0] = 999
    order = rng.permutation(1000).astype(np.uint16)
    order[order == 0], order[0] = order[0], 0
    return truth, order[halves]


def cells(rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> Labels:
    """The voxels nearest to each of some points, as far as a radius: where there are many points, they touch."""
    grid = np.stack(np.indices(shape), axis=-1).astype(float)
    points = rng.uniform(0, shape, (count, 3))
    distance = np.linalg.norm(grid[..., None, :] - points, axis=-1)
    nearest = distance.argmin(axis=-1) + 1
    return np.where(distance.min(axis=-1) < rng.uniform(4, 7), nearest, 0).astype(np.uint16)


def line(*parts: tuple[int, int]) -> NDArray[np.int32]:
    """A volume of one row: (value, length) after (value, length)."""
    return np.concatenate([np.full(length, value, np.int32) for value, length in parts])[None, None]
