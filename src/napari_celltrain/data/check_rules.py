"""What one image, or one labels volume, is like, and what is wrong with it.

What is wrong with the data as a whole: found by comparing the reports of all pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.alignment import find_misfit
from napari_celltrain.data.labels import LabelScheme, LabelSummary, summarize
from napari_celltrain.data.report import PairReport
from napari_celltrain.io.volume import LazyArray, slabs
from napari_celltrain.values.config import ZYX
from napari_celltrain.values.errors import Problem

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

EXTREME_REMEDY = "Look for broken voxels and replace them, or scale the image, for example to 0 to 1, and save it anew."


@dataclass(frozen=True, slots=True)
class Intensities:
    """Extremes of an image; the share is that of voxels at the maximum."""

    low: float
    high: float
    share_at_high: float
    num_not_finite: int


def measure_intensities(image: LazyArray) -> Intensities:
    """Go through an image once. Without a single finite voxel, ``low`` and ``high`` are NaN."""
    low, high, at_high, not_finite, total = math.inf, -math.inf, 0, 0, 0
    for _, slab in slabs(image):
        total += slab.size
        if slab.dtype.kind == "f":
            finite = np.isfinite(slab)
            missing = slab.size - int(np.count_nonzero(finite))
            not_finite += missing
            if missing:
                slab = slab[finite]
        if not slab.size:
            continue
        low = min(low, float(slab.min()))
        peak = slab.max()
        if float(peak) > high:
            high, at_high = float(peak), 0
        if float(peak) == high:
            at_high += int(np.count_nonzero(slab == peak))
    if high < low:
        return Intensities(math.nan, math.nan, 0.0, not_finite)
    return Intensities(low, high, at_high / total, not_finite)


def image_problems(where: str, dtype: np.dtype[Any], found: Intensities) -> list[Problem]:
    if found.num_not_finite:
        return [
            Problem(
                "nan-or-inf",
                where,
                f"The image holds {found.num_not_finite:,} voxels that are no numbers (NaN or infinite).",
                "Replace them (in Fiji: Process ▸ Math ▸ NaN Background, or save as 16-bit) and export it again.",
            )
        ]
    reason = extreme_reason(found.low, found.high)
    if reason is not None:
        return [Problem("extreme-values", where, f"The image holds {reason}.", EXTREME_REMEDY)]
    if found.low == found.high:
        return [
            Problem(
                "constant-image",
                where,
                f"All voxels of the image have the value {found.low:g}.",
                "Check the export and the channel, or remove the image and its labels.",
            )
        ]
    few_levels = dtype.kind in "ui" and found.high - found.low < _MIN_LEVELS
    if found.share_at_high > _SATURATED_SHARE and not few_levels:
        return [
            Problem(
                "saturated-image",
                where,
                f"{found.share_at_high:.1%} of the image have the largest value, {found.high:g}: it is overexposed.",
                "Use the raw data if the export clipped it; otherwise expose less next time.",
                "warning",
            )
        ]
    return []


def extreme_reason(low: float, high: float) -> str | None:
    """What is extreme about intensities from ``low`` to ``high``, which are finite, or None."""
    if max(abs(low), abs(high)) > _MAX_INTENSITY:
        return f"values from {low:g} to {high:g}, too large to compute with"
    if 0 < high - low < _MIN_RANGE:
        return f"values that differ by {high - low:g} at most, too little to compute with"
    return None


def sample_planes(labels: LazyArray) -> NDArray[Any]:
    """A few whole planes, spread over z: enough to see what kind of numbers these are."""
    depth = labels.shape[0]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, _NUM_SAMPLED_PLANES) + 2).astype(int))
    chosen = chosen[1:-1] if len(chosen) > 4 else chosen  # the outermost planes are often empty
    return np.concatenate([np.asarray(labels[z : z + 1, :, :]) for z in chosen])


def intensity_reason(planes: NDArray[Any], ignore_value: int | None) -> str | None:
    """Why these labels are rather an image, or None."""
    if planes.dtype.kind == "f":
        finite = planes[np.isfinite(planes)]
        if finite.size < planes.size or bool(np.any(finite != np.rint(finite))):
            return "they hold fractions, where each voxel needs a whole number"
    count = planes > 0
    if ignore_value is not None:
        count &= planes != ignore_value
    values = np.unique(planes[count])
    if len(values) < _MIN_VALUES_IN_IMAGES:
        return None
    both = count[:, :, 1:] & count[:, :, :-1]
    equal = planes[:, :, 1:] == planes[:, :, :-1]
    share = int(np.count_nonzero(equal & both)) / max(1, int(np.count_nonzero(both)))
    if share < _MAX_EQUAL_IN_IMAGES:
        return f"only {share:.0%} of neighbouring voxels have the same value, where objects are of one value each"
    return None


def labels_are_intensities(where: str, reason: str) -> Problem:
    return Problem(
        "labels-are-intensities",
        where,
        f"The labels look like an image: {reason}.",
        "Choose the folder of the labels (each object its own whole number), not that of images or probabilities.",
    )


def label_problems(where: str, labels: LazyArray, scheme: LabelScheme, found: LabelSummary) -> list[Problem]:
    """What is odd about labels that are whole numbers."""
    if found.foreground_fraction == 0:
        what = "Nobody annotated a voxel" if found.ignored_fraction == 1 else "No voxel is labelled"
        remedy = "If there is truly nothing in it, keep it; otherwise label it or remove the pair."
        return [Problem("empty-labels", where, f"{what} in these labels.", remedy, "warning")]
    problems = []
    if found.foreground_fraction > _FULL:
        problems.append(_no_background(where, scheme, found))
    if scheme.kind == "objects":
        num_tiny = int(np.count_nonzero(found.object_sizes < _TINY_VOXELS))
        if num_tiny:
            problems.append(
                Problem(
                    "tiny-objects",
                    where,
                    f"{num_tiny} of {found.num_objects} objects have fewer than {_TINY_VOXELS} voxels.",
                    "These are mostly slips of the brush: remove them from the labels.",
                    "warning",
                )
            )
        if found.num_objects == 1 and _num_blobs(labels, scheme) > 1:
            problems.append(_looks_binary(where))
    return problems


def negative_labels(where: str, found: LabelSummary) -> list[Problem]:
    if not found.num_negative:
        return []
    one = found.num_negative == 1
    voxels = "1 voxel with a negative label is" if one else f"{found.num_negative:,} voxels with negative labels are"
    return [
        Problem(
            "negative-labels",
            where,
            f"{voxels} taken as background.",
            "Give them the ignore value if nobody annotated them, or 0 if they are background.",
            "warning",
        )
    ]


def alignment_problems(where: str, image: LazyArray, labels: LazyArray, scheme: LabelScheme) -> list[Problem]:
    misfit = find_misfit(image, labels, scheme)
    if misfit is None:
        return []
    remedy = (
        "Look at both in napari; if they do not match, check that they are of the same sample and crop."
        if misfit.code == "labels-shifted"
        else "Look at both in napari; if they do not match, save the labels again in the orientation of the image."
    )
    return [
        Problem(
            misfit.code,
            where,
            f"The labels would fit the image much better {misfit.how} "
            f"(agreement {misfit.agreement:.2f} instead of {misfit.agreement_as_is:.2f}).",
            remedy,
            "warning",
        )
    ]


def _no_background(where: str, scheme: LabelScheme, found: LabelSummary) -> Problem:
    remedy = "Set the voxels outside to 0; or, where these are unannotated, give them the ignore value."
    if scheme.kind == "objects":
        remedy = (
            "Labels that touch everywhere, as of cells in a tissue, need another kind of target: label the membranes "
            "(label_kind: foreground), or set the voxels between and outside the objects to 0."
        )
    return Problem(
        "no-background",
        where,
        f"{found.foreground_fraction:.1%} of the voxels are foreground: a network can learn nothing from it, since "
        "calling everything foreground is right.",
        remedy,
        "warning",
    )


def _looks_binary(where: str) -> Problem:
    return Problem(
        "labels-look-binary",
        where,
        "All objects have the same number, although they lie apart, so they count as one object.",
        "Choose label_kind: foreground, or give each object a number of its own (connected components).",
        "warning",
    )


def _num_blobs(labels: LazyArray, scheme: LabelScheme) -> int:
    blobs = summarize(labels, LabelScheme("foreground", scheme.ignore_value))
    return int(np.count_nonzero(blobs.object_sizes >= _TINY_VOXELS))


# --- comparisons -----------------------------------------------------------------------------------------

_MAX_SPACING_RATIO = 1.05


def duplicates(reports: Sequence[PairReport]) -> list[Problem]:
    same: defaultdict[str, list[PairReport]] = defaultdict(list)
    for report in reports:
        if report.image_fingerprint is not None:
            same[report.image_fingerprint].append(report)
    problems = []
    for group in same.values():
        if len(group) < 2:
            continue
        names = ", ".join(report.image.name for report in group[1:])
        on_both = len({report.side for report in group}) > 1
        problems.append(
            Problem(
                "duplicate-volume",
                group[0].image.name,
                f"The same image is there again as {names}"
                + (", in training and in validation: scores would be worthless." if on_both else "."),
                "Remove it from one of the folders." if on_both else "Remove the copies: they count twice.",
                "error" if on_both else "warning",
            )
        )
    return problems


def mixed_voxel_sizes(reports: Sequence[PairReport]) -> list[Problem]:
    known = [report for report in reports if report.voxel_size is not None]
    if not known:
        return []
    sizes = np.array([report.voxel_size for report in known])
    if bool(np.all(sizes.max(axis=0) <= _MAX_SPACING_RATIO * sizes.min(axis=0))):
        return []
    typical = np.median(sizes, axis=0)
    odd = known[int(np.argmax(np.abs(np.log(sizes / typical)).max(axis=1)))]
    z, y, x = odd.voxel_size or (0.0, 0.0, 0.0)
    return [
        Problem(
            "mixed-voxel-sizes",
            odd.image.name,
            f"Voxel sizes differ between images: this one has {z:g} × {y:g} × {x:g} µm (z, y, x), typical is "
            f"{typical[0]:g} × {typical[1]:g} × {typical[2]:g} µm.",
            "Bring all images to one voxel size, or set data.voxel_size if the files are wrong.",
            "warning",
        )
    ]


def large_objects(reports: Sequence[PairReport], patch_size: ZYX | None) -> list[Problem]:
    extents = [report.object_extent_median for report in reports if report.object_extent_median is not None]
    if patch_size is None or not extents:
        return []
    z, y, x = np.median(np.array(extents), axis=0)
    if z <= patch_size[0] and y <= patch_size[1] and x <= patch_size[2]:
        return []
    return [
        Problem(
            "objects-larger-than-patch",
            "patch_size",
            f"A typical object spans {z:.0f} × {y:.0f} × {x:.0f} voxels (z, y, x), more than a patch of "
            f"{' × '.join(map(str, patch_size))}.",
            "Choose larger patches, so that the network sees whole objects.",
            "warning",
        )
    ]


def nothing_labelled(reports: Sequence[PairReport]) -> list[Problem]:
    fractions = [report.foreground_fraction for report in reports if report.side != "validation"]
    if not fractions or any(fraction is None or fraction > 0 for fraction in fractions):
        return []
    message = "No voxel is labelled in any volume, so there is nothing to learn."
    return [Problem("nothing-labelled", "labels", message, "Label some objects, or choose the folder of the labels.")]


def no_background_class(scheme: LabelScheme | None) -> list[Problem]:
    """Classes without the value 0: whoever marked only some voxels, and forgot the ignore value, should hear of it."""
    if scheme is None or scheme.kind != "classes" or 0 in scheme.class_values:
        return []
    lowest = scheme.class_values[0]
    return [
        Problem(
            "no-background-class",
            "labels",
            f"No voxel has the value 0, so the lowest class, {lowest}, counts as background.",
            "Number the background 0 if it is another class.",
            "warning",
        )
    ]


def look_like_objects() -> Problem:
    return Problem(
        "labels-look-like-objects",
        "label_kind",
        "The labels hold many values, as if each object had a number of its own, but are read as foreground.",
        "Choose label_kind: objects, so that objects are count and scored, too.",
        "warning",
    )
