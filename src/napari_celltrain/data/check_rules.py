"""The rules of the data check for one image and one labels volume: what they are like, and what is wrong with them.

Whether labels lie where the image shows something is a guess from how well both agree, as they are and moved or
flipped. On coarse copies, the labels' foreground is correlated with the image: where labels fit, moving or flipping
them makes the correlation fall. Only where it rises a lot is there a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.labels import IGNORE, LabelScheme, to_target
from napari_celltrain.data.objects import LabelSummary, summarize
from napari_celltrain.io.volume import LazyArray, sample_voxels, slabs
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.text import count

_SATURATED_SHARE = 0.01
# Below this many grey levels the brightest one is a measurement like the others, not a limit of the camera.
_MIN_LEVELS = 32
_TINY_VOXELS = 5
_NUM_SAMPLED_PLANES = 8
# In labels nearly all neighbours inside objects are equal (0.97 and more on real ones), in images few (below 0.4).
_MAX_EQUAL_IN_IMAGES = 0.6
_MIN_VALUES_IN_IMAGES = 17
_FULL = 0.995
# Networks compute in float32, which ends at 3e38; sums and squares of intensities must stay well within.
_MAX_INTENSITY = 1e30
_MIN_RANGE = 1e-30

PERCENTILES = (1.0, 99.8)
"""The usual range. The upper one is high as cells may fill little of a volume, and robust against hot pixels."""
_OUTLYING = 12.0
"""How many times the usual range an outlier is away from its lower end; the brightest nuclei of BBBC050 reach 11."""

EXTREME_REMEDY = (
    "Look for broken voxels and replace them, or scale the image, for example to 0 to 1, and save it again."
)


def warning(code: str, where: str, message: str, remedy: str, *settings: str) -> Problem:
    return Problem(code, where, message, remedy, "warning", settings)


# --- images


def intensity_problems(where: str, image: LazyArray) -> tuple[list[Problem], tuple[float, float]]:
    """What is wrong, one problem at most; and the lowest and the highest intensity (NaN without any finite voxel)."""
    low, high, at_high, finite = math.inf, -math.inf, 0, 0
    for _, slab in slabs(image):
        if slab.dtype.kind == "f" and not (is_finite := np.isfinite(slab)).all():
            slab = slab[is_finite]
        finite += slab.size
        if not slab.size:
            continue
        low = min(low, float(slab.min()))
        peak = slab.max()
        if float(peak) > high:
            high, at_high = float(peak), 0
        if float(peak) == high:
            at_high += int(np.count_nonzero(slab == peak))
    total = math.prod(image.shape)
    extremes = (low, high) if finite else (math.nan, math.nan)
    few_levels = image.dtype.kind in "ui" and high - low < _MIN_LEVELS
    problem = None
    if finite < total:
        message = f"The image holds {total - finite:,} voxels that are no numbers (NaN or infinite)."
        remedy = "Replace them (in Fiji: Process ▸ Math ▸ NaN Background, or save as 16-bit) and export it again."
        problem = Problem("nan-or-inf", where, message, remedy)
    elif reason := extreme_reason(low, high):
        problem = Problem("extreme-values", where, f"The image holds {reason}.", EXTREME_REMEDY)
    elif low == high:
        message = f"All voxels of the image have the value {low:g}."
        remedy = "Check the export and the channel, or remove the image and its labels."
        problem = Problem("constant-image", where, message, remedy)
    elif outliers := _outlier_problem(where, image, low, high):
        problem = outliers
    elif at_high / total > _SATURATED_SHARE and not few_levels:
        message = f"{at_high / total:.1%} of the image have the largest value, {high:g}: it is overexposed."
        remedy = "Use the raw data if the export clipped it; otherwise expose less next time."
        problem = warning("saturated-image", where, message, remedy)
    return [] if problem is None else [problem], extremes


def _outlier_problem(where: str, image: LazyArray, lowest: float, highest: float) -> Problem | None:
    """A warning of voxels far outside of the others, in an image with values from ``lowest`` to ``highest``."""
    low, high = usual_range(sample_voxels(image))
    first, last = _outlier_limits(low, high)
    if first <= lowest and highest <= last:
        return None
    number = sum(int(np.count_nonzero((slab < first) | (slab > last))) for _, slab in slabs(image))
    farthest, side = (highest, "above") if highest - low > low - lowest else (lowest, "below")
    lie = "lies" if number == 1 else "lie"
    message = (
        f"{count(number, 'voxel')} {lie} far {side} the others, up to {farthest:.4g}; nearly all voxels have values "
        f"between {low:.4g} and {high:.4g}."
    )
    remedy = (
        "If they are broken (hot or dead), remove them (in Fiji: Process ▸ Noise ▸ Remove Outliers). Left in, they are "
        "compressed, so that they do not hide the rest, unless limit_outliers is off."
    )
    return warning("outlying-voxels", where, message, remedy)


def extreme_reason(low: float, high: float) -> str | None:
    """What is extreme about intensities from ``low`` to ``high``, which are finite, or None."""
    if max(abs(low), abs(high)) > _MAX_INTENSITY:
        return f"values from {low:g} to {high:g}, too large to compute with"
    if 0 < high - low < _MIN_RANGE:
        return f"values that differ by {high - low:g} at most, too little to compute with"
    return None


def usual_range(sample: NDArray[Any], *, robust: bool = True) -> tuple[float, float]:
    """The intensities between which nearly all voxels of ``sample`` (planes, voxels) lie: percentiles 1 and 99.8.

    Where these are equal, nearly all voxels have one value, and the others are what there is to see: then the typical
    one of these is the upper end. Planes that lie outliers' distances from all others, as of a flash, do not count.
    With ``robust`` off, as by version 0.1.0, all planes count, and where the percentiles are equal, the lowest and the
    highest value are the ends.
    """
    if not robust:
        low, high = _percentiles(sample)
        return (low, high) if high > low else (float(sample.min()), float(sample.max()))
    lowest, highest = sample.min(axis=1), sample.max(axis=1)
    alike = (lowest <= np.median(highest)) & (highest >= np.median(lowest))
    if alike.any() and not alike.all():
        first, last = _outlier_limits(*_robust_percentiles(sample[alike]))
        sample = sample[(lowest <= last) & (highest >= first)]
    return _robust_percentiles(sample)


def _percentiles(sample: NDArray[Any]) -> tuple[float, float]:
    if sample.dtype.kind == "i":  # NumPy interpolates in the type itself, where differences may overflow
        sample = sample.astype(np.float32 if sample.dtype.itemsize <= 2 else np.float64)
    low, high = np.percentile(sample, PERCENTILES)
    return float(low), float(high)


def _robust_percentiles(sample: NDArray[Any]) -> tuple[float, float]:
    low, high = _percentiles(sample)
    if high - low < _MIN_RANGE:
        distances = np.abs(sample.astype(np.float64) - low)
        others = distances[distances > 0]
        high = low + (max(float(np.median(others)), _MIN_RANGE) if others.size else 1.0)
    return low, high


def _outlier_limits(low: float, high: float) -> tuple[float, float]:
    """Outside of these, voxels are outliers of the usual range from ``low`` to ``high``."""
    reach = _OUTLYING * (high - low)
    return low - reach, low + reach


def inliers(sample: NDArray[Any]) -> NDArray[Any]:
    """The intensities (N,) of ``sample`` (planes, voxels) without outliers."""
    first, last = _outlier_limits(*usual_range(sample))
    return np.asarray(sample[(sample >= first) & (sample <= last)])


# --- labels


def sample_planes(labels: LazyArray) -> NDArray[Any]:
    """A few whole planes, spread over z: enough to see what kind of numbers these are."""
    depth = labels.shape[0]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, _NUM_SAMPLED_PLANES) + 2).astype(int))
    chosen = chosen[1:-1] if len(chosen) > 4 else chosen  # the outermost planes are often empty
    return np.concatenate([np.asarray(labels[z : z + 1, :, :]) for z in chosen])


def intensity_reason(planes: NDArray[Any], ignore_value: int | None) -> str | None:
    """Why these labels are rather an image, or None."""
    if planes.dtype.kind == "f":
        planes = np.where(np.isfinite(planes), planes, 0)  # which is a problem of its own
        if bool(np.any(planes != np.rint(planes))):
            return "they hold fractions, where each voxel needs a whole number"
    labelled = planes > 0
    if ignore_value is not None:
        labelled &= planes != ignore_value
    values = np.unique(planes[labelled])
    if len(values) < _MIN_VALUES_IN_IMAGES:
        return None
    both = labelled[:, :, 1:] & labelled[:, :, :-1]
    equal = planes[:, :, 1:] == planes[:, :, :-1]
    share = int(np.count_nonzero(equal & both)) / max(1, int(np.count_nonzero(both)))
    if share < _MAX_EQUAL_IN_IMAGES:
        return f"only {share:.0%} of neighbouring voxels have the same value, where objects are of one value each"
    return None


def count_not_finite(labels: LazyArray) -> int:
    """Voxels that are NaN or infinite."""
    if labels.dtype.kind != "f":
        return 0
    return sum(int(np.count_nonzero(~np.isfinite(slab))) for _, slab in slabs(labels))


def labels_are_intensities(where: str, reason: str) -> Problem:
    remedy = "Choose the folder of the labels (each object its own whole number), not that of images or probabilities."
    return Problem("labels-are-intensities", where, f"The labels look like an image: {reason}.", remedy)


def label_problems(where: str, labels: LazyArray, config: DataConfig, found: LabelSummary) -> Iterator[Problem]:
    """What is odd about labels that are whole numbers."""
    if found.num_negative and config.label_kind != "classes":  # among classes they are refused
        voxels, verb = count(found.num_negative, "voxel"), "is" if found.num_negative == 1 else "are"
        message = (
            f"{voxels} with {'a negative label' if verb == 'is' else 'negative labels'} {verb} taken as background."
        )
        remedy = "Give them the ignore value if nobody annotated them, or 0 if they are background."
        yield warning("negative-labels", where, message, remedy, "data.ignore_value")
    if found.foreground_fraction == 0:
        what = "Nobody annotated a voxel" if found.ignored_fraction == 1 else "No voxel is labelled"
        remedy = "If there is truly nothing in it, keep it; otherwise label it or remove the pair."
        yield warning("empty-labels", where, f"{what} in these labels.", remedy)
        return
    if found.foreground_fraction > _FULL:
        reason = "a network can learn nothing from it, since calling everything foreground is right."
        message = f"{found.foreground_fraction:.1%} of the voxels are foreground: {reason}"
        setting = "data.ignore_value"
        remedy = "Set the voxels outside to 0; or, where these are unannotated, give them the ignore value."
        if config.label_kind == "objects":
            setting = "data.label_kind"
            remedy = (
                "Labels that touch everywhere, as of cells in a tissue, need another kind of target: label the "
                "membranes and read the labels as foreground, or set the voxels between and outside the objects to 0."
            )
        yield warning("no-background", where, message, remedy, setting)
    if config.label_kind != "objects":
        return
    num_tiny = int(np.count_nonzero(found.object_sizes < _TINY_VOXELS))
    if num_tiny:
        message = f"{num_tiny} of {found.num_objects} objects have fewer than {_TINY_VOXELS} voxels."
        remedy = "These are mostly slips of the brush: remove them from the labels."
        yield warning("tiny-objects", where, message, remedy)
    if found.num_objects == 1:
        components = summarize(labels, LabelScheme("foreground", config.ignore_value)).object_sizes
        if np.count_nonzero(components >= _TINY_VOXELS) > 1:
            message = "All objects have the same number, although they lie apart, so they count as one object."
            remedy = "Read the labels as foreground, or give each object a number of its own (connected components)."
            yield warning("labels-look-binary", where, message, remedy, "data.label_kind")


# --- alignment

_CELLS = 48
"""Cells along the longest axis of the coarse copies."""
_MIN_CELLS = 5
# An alternative counts where it agrees well by itself and takes away a third of the disagreement. On correct
# pairs of nuclei the labels reach 0.7 to 0.9 as they are, and no alternative comes above that.
_MIN_AGREEMENT = 0.45
_MAX_REMAINING = 0.65
_MIN_GAIN = 0.1

Cells = NDArray[np.float32]


def alignment_problems(where: str, image: LazyArray, labels: LazyArray, scheme: LabelScheme) -> list[Problem]:
    """A warning with the best alternative to the labels as they lie; none where they fit, or nothing can be said."""
    shape = tuple(image.shape)
    factors = tuple(max(1, -(-length // _CELLS)) for length in shape)
    if min(n // f for n, f in zip(shape, factors, strict=True)) < _MIN_CELLS:
        return []
    parts = []
    both = (slabs(volume, multiple_of=factors[0]) for volume in (image, labels))
    for (_, pixels), (_, slab) in zip(*both, strict=True):
        target = to_target(slab, scheme)
        sources = (pixels, (target > 0) & (target != IGNORE), target == IGNORE)
        parts.append([_block_means(source, factors) for source in sources])
    cells, mask, ignored = (np.concatenate(part) for part in zip(*parts, strict=True))
    annotated = ignored < 0.5
    low, high = np.percentile(cells, (1, 99.8))
    if annotated.mean() < 0.5 or not 0.001 < mask[annotated].mean() < 0.99 or not low < high:
        return []
    # Between 0 and 1, so that no square overflows; a correlation does not depend on the scale.
    cells = ((np.clip(cells, low, high) - low) / (high - low)).astype(np.float32)
    as_is = _agreement(cells[annotated], mask[annotated])
    alternatives = (_best_shift(cells, mask, annotated, factors), *_turned(cells, mask, shape))
    code, how, agreement = max(alternatives, key=lambda alternative: alternative[2])
    if agreement < max(_MIN_AGREEMENT, as_is + _MIN_GAIN) or 1 - agreement > _MAX_REMAINING * (1 - as_is):
        return []
    message = f"The labels would fit the image much better {how} (agreement {agreement:.2f} instead of {as_is:.2f})."
    step = (
        "check that they are of the same sample and crop"
        if code == "labels-shifted"
        else "save the labels again in the orientation of the image"
    )
    return [warning(code, where, message, f"Look at both in napari; if they do not match, {step}.")]


def _block_means(slab: NDArray[Any], factors: tuple[int, ...]) -> Cells:
    """Means over blocks, one axis at a time (last first: it shrinks the most); rests at the far ends fall away."""
    kept = tuple(slice(length // factor * factor) for length, factor in zip(slab.shape, factors, strict=True))
    cells: Cells = slab[kept].astype(np.float32)
    for axis in (2, 1, 0):
        count = cells.shape[axis] // factors[axis]
        blocks = cells.reshape(*cells.shape[:axis], count, factors[axis], *cells.shape[axis + 1 :])
        cells = blocks.mean(axis=axis + 1, dtype=np.float32)
    return cells


def _agreement(a: Cells, b: Cells) -> float:
    """The size of the correlation: labelled things may be brighter or darker than the rest."""
    with np.errstate(invalid="ignore", divide="ignore"):  # there is none with a constant
        return float(np.nan_to_num(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1])))


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
    turned = [
        (f"flipped along {name}", np.flip(mask, axes))
        for name, axes in (("z", (0,)), ("y", (1,)), ("x", (2,)), ("y and x", (1, 2)))
    ]
    for first, second in ((1, 2), (0, 2), (0, 1)):
        if shape[first] != shape[second]:
            continue
        swapped = np.swapaxes(mask, first, second)
        names = f"{'zyx'[first]} and {'zyx'[second]}"
        turned.append((f"with {names} swapped", swapped))
        # a quarter turn either way
        turned += [(f"turned by 90° in {names}", np.flip(swapped, axis)) for axis in (first, second)]
    return [("labels-transposed", how, _agreement(cells, other)) for how, other in turned]
