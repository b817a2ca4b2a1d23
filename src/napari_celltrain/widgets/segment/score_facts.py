"""Scores and wrong objects as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import Spacing
from napari_celltrain.data.differences import Difference, WrongObject

if TYPE_CHECKING:
    from napari_celltrain.runs.evaluation import VolumeScores

KINDS = {
    Difference.MISSED_OBJECT: "missed",
    Difference.FALSE_OBJECT: "false",
    Difference.SPLIT_OBJECT: "split",
    Difference.MERGED_OBJECTS: "merged",
}
F1_AT = (0.5, 0.7, 0.9)
_UNSURE = "–"


def score_rows(scores: VolumeScores) -> list[tuple[str, str, str]]:
    """Name, value and a line of help of each score."""
    voxels, objects = scores.voxels, scores.objects
    rows: list[tuple[str, float | None, str]] = [
        ("Dice", voxels.dice, "Overlap of the voxels: twice what both have, over the sum of what each has."),
        ("IoU", voxels.iou, "Voxels in both, over voxels in either."),
        ("Precision", voxels.precision, "Share of the predicted voxels that are right."),
        ("Recall", voxels.recall, "Share of the labelled voxels that were found."),
    ]
    if objects is None:
        return [(name, _number(value), text) for name, value, text in rows]
    rows += [
        (f"F1 at IoU {at}", objects.at(at).f1, f"Objects that overlap by an IoU of at least {at} count as found.")
        for at in F1_AT
    ]
    rows += [
        ("Mean AP", objects.mean_average_precision, "TP / (TP + FP + FN), averaged over IoU 0.5, 0.55 … 0.95."),
        ("PQ", objects.panoptic_quality, "Panoptic quality: F1 at IoU 0.5 times the mean IoU of what was found."),
        ("SEG", objects.seg, "Mean IoU of the labelled objects, of the Cell Tracking Challenge."),
    ]
    texts = [(name, _number(value), text) for name, value, text in rows]
    counts = f"{objects.num_true:,} labelled, {objects.num_predicted:,} predicted"
    return [*texts, ("Objects", counts, f"{objects.count_error:+,} in the prediction.")]


def _number(value: float | None) -> str:
    return _UNSURE if value is None else f"{value:.4f}"


def wrong_columns(wrong: Sequence[WrongObject], voxel_size: Spacing | None) -> dict[str, NDArray[Any]]:
    """One row for each wrong object."""
    if not wrong:
        return {}
    volume = 1.0 if voxel_size is None else float(np.prod(voxel_size))
    return {
        "error": np.array([KINDS[found.kind] for found in wrong]),
        "in": np.array([found.side for found in wrong]),
        "label": np.array([found.label for found in wrong]),
        "voxels" if voxel_size is None else "µm³": np.array([found.num_voxels * volume for found in wrong]),
        "best IoU": np.array([found.best_iou for found in wrong]),
        "meets": np.array([", ".join(map(str, found.partners[:4])) or _UNSURE for found in wrong]),
    }


WRONG_HELP: Mapping[str, str] = {
    "error": "Missed: labelled, not predicted. False: predicted, not labelled. Split: one is several in the "
    "prediction. Merged: several are one in the prediction.",
    "in": "The layer that the object is in.",
    "label": "Its number there.",
    "best IoU": "Its largest overlap with an object of the other layer; from 0.5 on it would count as found.",
    "meets": "Objects of the other layer that share voxels with it, the largest share first.",
}
