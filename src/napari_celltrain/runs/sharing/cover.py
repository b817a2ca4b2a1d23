"""The picture by which a package is recognized: image and prediction side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_HEIGHT = 256


def write_cover(path: Path, image_ZYX: NDArray[Any], probability_ZYX: NDArray[Any]) -> None:
    """The middle planes as a picture of 512 x 256 pixels: bioimage.io wants a ratio of 2 to 1."""
    from matplotlib.image import imsave

    middle = image_ZYX.shape[0] // 2
    low, high = np.percentile(image_ZYX[middle], (1, 99.8))
    halves = [(image_ZYX[middle] - low) / max(float(high - low), 1e-12), probability_ZYX[middle]]
    picture = np.hstack([_square(np.clip(half, 0, 1)) for half in halves])
    imsave(path, picture, cmap="gray", vmin=0, vmax=1)


def _square(plane_YX: NDArray[Any]) -> NDArray[Any]:
    """Enlarged or shrunk to the height, the rest black."""
    factor = _HEIGHT / max(plane_YX.shape)
    scaled = ndimage.zoom(plane_YX.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest")
    square = np.zeros((_HEIGHT, _HEIGHT), np.float32)
    height, width = (min(size, _HEIGHT) for size in scaled.shape)
    top, left = (_HEIGHT - height) // 2, (_HEIGHT - width) // 2
    square[top : top + height, left : left + width] = scaled[:height, :width]
    return square
