"""An image of the size of one window, on which an exported model is checked and which goes into the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.config import ZYX
from napari_celltrain.data.volumes import open_volume
from napari_celltrain.errors import DataError


def made_up(window: ZYX) -> NDArray[np.float32]:
    """Bright, smooth blobs in noise (Z, Y, X), whole numbers as of a 16-bit camera; always the same."""
    rng = np.random.default_rng(0)
    sigma = [max(1.0, min(size / 16, 4.0)) for size in window]
    field = ndimage.gaussian_filter(rng.standard_normal(window), sigma)
    blobs = np.clip(field / field.std(), 0.5, 2.0) - 0.5
    image: NDArray[np.float32] = np.rint(200 + 800 * blobs + rng.normal(0, 20, window)).clip(0).astype(np.float32)
    return image


def cut_from(path: Path, window: ZYX, *, channel: int | None) -> NDArray[np.float32]:
    """The middle of an image, mirrored where it is smaller than the window. Raises :class:`DataError`."""
    volume = open_volume(path, channel=channel)
    image = volume.lazy()
    if image is None:
        image = volume.read()
    start = [max(0, (length - size) // 2) for length, size in zip(volume.shape, window, strict=True)]
    z, y, x = (slice(first, first + size) for first, size in zip(start, window, strict=True))
    part: NDArray[Any] = np.asarray(image[z, y, x])
    if not np.isfinite(part).all():
        raise DataError(f"{volume.where} holds values that are not numbers. Give another image with --sample.")
    missing = [(0, size - length) for size, length in zip(window, part.shape, strict=True)]
    return np.pad(part.astype(np.float32), missing, mode="reflect")
