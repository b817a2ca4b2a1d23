"""What is wrong with the data as a whole: found by comparing the reports of all pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from napari_celltrain.config import ZYX
from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.data.report import PairReport
from napari_celltrain.errors import Problem

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
        "Choose label_kind: objects, so that objects are counted and scored, too.",
        "warning",
    )
