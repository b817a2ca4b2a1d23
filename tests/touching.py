"""Maps, as of a network that has learned objects, of balls that touch."""

from __future__ import annotations

import numpy as np

from napari_celltrain.engine.objects import quantize

SPACING = (2.0, 1.0, 1.0)


def touching_balls(
    seed: int = 0, shape=(20, 60, 64), number: int = 60, radius: float = 5.0
) -> tuple[np.ndarray, np.ndarray]:
    """Maps uint8 (3, Z, Y, X) and true labels; voxels are of size ``SPACING``."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape) * np.array(SPACING)[:, None, None, None]
    nearest = np.full(shape, np.inf)
    labels = np.zeros(shape, np.int32)
    centres = []
    for _ in range(number * 20):
        centre = rng.uniform(0, np.array(shape) * SPACING)
        if len(centres) < number and all(np.linalg.norm(centre - other) > 1.7 * radius for other in centres):
            centres.append(centre)
    for index, centre in enumerate(centres, start=1):
        distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(axis=0))
        closer = (distance < nearest) & (distance < radius)
        labels[closer] = index
        nearest = np.minimum(nearest, distance)
    foreground = labels > 0
    depth = np.where(foreground, 1 - nearest / radius, 0)
    noise = rng.normal(0, 0.02, shape)
    maps = np.stack([np.where(foreground, 0.9, 0.1) + noise, depth + noise, np.zeros(shape)]).clip(0, 1)
    return quantize(maps.astype(np.float32)), labels
