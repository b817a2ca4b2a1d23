"""Do the labels lie where the image says? A guess from how well both agree, as they are and moved or flipped.

On coarse copies, the labels' foreground is correlated with the image. Where labels fit, moving or flipping them
makes the correlation fall; only where it rises a lot is something said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target
from napari_celltrain.io.volume import LazyArray, slabs

_CELLS = 48
"""Cells along the longest axis of the coarse copies."""
_MIN_CELLS = 5
# An alternative counts where it agrees well by itself and takes away a third of the disagreement. On correct
# pairs of nuclei the labels reach 0.7 to 0.9 as they are, and no alternative comes above that.
_MIN_AGREEMENT = 0.45
_MAX_REMAINING = 0.65
_MIN_GAIN = 0.1

Cells = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Misfit:
    """A way in which the labels would fit the image much better than they do."""

    code: str
    how: str
    """What was done to the labels, such as ``moved by 12 voxels along x``."""
    agreement: float
    agreement_as_is: float


def find_misfit(image: LazyArray, labels: LazyArray, scheme: LabelScheme) -> Misfit | None:
    """The best alternative to the labels as they lie, or None where they fit, or where nothing can be said."""
    shape = tuple(image.shape)
    factors = tuple(max(1, -(-length // _CELLS)) for length in shape)
    if min(n // f for n, f in zip(shape, factors, strict=True)) < _MIN_CELLS:
        return None
    cells = _coarse(image, factors)
    mask, annotated = _coarse_labels(labels, scheme, factors)
    if annotated.mean() < 0.5 or not 0.001 < mask[annotated].mean() < 0.99:
        return None
    low, high = np.percentile(cells, (1, 99.8))
    if not low < high:
        return None
    # Between 0 and 1, so that no square overflows; a correlation does not depend on the scale.
    cells = ((np.clip(cells, low, high) - low) / (high - low)).astype(np.float32)
    as_is = _agreement(cells[annotated], mask[annotated])
    best = max((_best_shift(cells, mask, annotated, factors), *_turned(cells, mask, shape)), key=lambda m: m[2])
    code, how, agreement = best
    if agreement < max(_MIN_AGREEMENT, as_is + _MIN_GAIN) or 1 - agreement > _MAX_REMAINING * (1 - as_is):
        return None
    return Misfit(code, how, agreement, as_is)


def _coarse(array: LazyArray, factors: tuple[int, ...]) -> Cells:
    return np.concatenate([_block_means(slab, factors) for _, slab in slabs(array, multiple_of=factors[0])])


def _coarse_labels(labels: LazyArray, scheme: LabelScheme, factors: tuple[int, ...]) -> tuple[Cells, NDArray[np.bool_]]:
    """The share of foreground in each cell, and which cells are mostly annotated."""
    masks, ignored = [], []
    for _, slab in slabs(labels, multiple_of=factors[0]):
        target = to_target(slab, scheme)
        masks.append(_block_means((target > 0) & (target != IGNORE), factors))
        ignored.append(_block_means(target == IGNORE, factors))
    return np.concatenate(masks), np.concatenate(ignored) < 0.5


def _block_means(slab: NDArray[Any], factors: tuple[int, ...]) -> Cells:
    """Means over blocks, one axis at a time (last first: it shrinks the most); rests at the far ends fall away."""
    cells: Cells = slab.astype(np.float32)
    for axis in (2, 1, 0):
        factor = factors[axis]
        count = cells.shape[axis] // factor
        kept = cells.take(range(count * factor), axis=axis) if cells.shape[axis] % factor else cells
        blocks = kept.reshape(*kept.shape[:axis], count, factor, *kept.shape[axis + 1 :])
        cells = blocks.mean(axis=axis + 1, dtype=np.float32)
    return cells


def _agreement(a: Cells, b: Cells) -> float:
    """The size of the correlation: labelled things may be brighter or darker than the rest."""
    a = a - a.mean()
    b = b - b.mean()
    norm = float(np.sqrt(np.sum(a * a, dtype=np.float64) * np.sum(b * b, dtype=np.float64)))
    return abs(float(np.sum(a * b, dtype=np.float64))) / norm if norm > 0 else 0.0


def _best_shift(
    cells: Cells, mask: Cells, annotated: NDArray[np.bool_], factors: tuple[int, ...]
) -> tuple[str, str, float]:
    """All shifts of up to a third of the volume at once, by a Fourier transform; then the best one exactly."""
    from scipy import fft

    padded = [fft.next_fast_len(length + length // 3 + 1, real=True) for length in cells.shape]
    image = fft.rfftn(np.where(annotated, cells - cells[annotated].mean(), 0), padded, workers=1)
    labels = fft.rfftn(np.where(annotated, mask - mask[annotated].mean(), 0), padded, workers=1)
    product = np.abs(fft.irfftn(image * np.conj(labels), padded, workers=1))
    reach = [length // 3 for length in cells.shape]
    window = product[np.ix_(*[np.arange(-r, r + 1) for r in reach])]
    window[reach[0], reach[1], reach[2]] = -1  # as it is, it has not been moved
    peak = np.unravel_index(int(np.argmax(window)), window.shape)
    shift = [int(index) - r for index, r in zip(peak, reach, strict=True)]
    to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, cells.shape, strict=True))
    source = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(shift, cells.shape, strict=True))
    moved = ", ".join(
        f"{s * factor:+d} along {axis}" for s, factor, axis in zip(shift, factors, "zyx", strict=True) if s
    )
    return "labels-shifted", f"moved by about {moved} voxels", _agreement(cells[to], mask[source])


def _turned(cells: Cells, mask: Cells, shape: tuple[int, ...]) -> list[tuple[str, str, float]]:
    """The mask flipped along each axis or both in the plane, and with two axes of equal length swapped."""
    found = [
        ("labels-transposed", f"flipped along {name}", _agreement(cells, np.flip(mask, axes)))
        for name, axes in (("z", (0,)), ("y", (1,)), ("x", (2,)), ("y and x", (1, 2)))
    ]
    for first, second in ((1, 2), (0, 2), (0, 1)):
        if shape[first] != shape[second]:
            continue
        swapped = np.swapaxes(mask, first, second)
        names = f"{'zyx'[first]} and {'zyx'[second]}"
        found.append(("labels-transposed", f"with {names} swapped", _agreement(cells, swapped)))
        for axis in (first, second):  # a quarter turn either way
            turned = np.flip(swapped, axis)
            found.append(("labels-transposed", f"turned by 90° in {names}", _agreement(cells, turned)))
    return found
