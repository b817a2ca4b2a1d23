"""The scores of an evaluation as files: a table, JSON for programs, a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celltrain.data.differences import WrongObject
from napari_celltrain.engine.object_scores import THRESHOLDS, ObjectScores
from napari_celltrain.runs import atomic
from napari_celltrain.runs.table_file import refusal, write_file, write_table

if TYPE_CHECKING:
    from napari_celltrain.runs.evaluation import Evaluation, VolumeScores


def write_scores(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Raises :class:`DataError` where ``folder`` cannot be written."""
    table, values, picture = (folder / f"scores.{suffix}" for suffix in ("csv", "json", "png"))
    rows = [score_row(scores) for scores in (*evaluation.volumes, evaluation.pooled)]
    write_table(table, list(rows[0]), [list(row.values()) for row in rows])
    write_file(values, scores_json(evaluation))
    _write_picture(evaluation, picture)
    return table, values, picture


def scores_json(evaluation: Evaluation) -> str:
    """All scores, and every object that is wrong. What has no value, such as SEG without a labelled object, is null."""
    content = {
        "schema_version": 1,
        "label_kind": evaluation.label_kind,
        "iou_thresholds": list(THRESHOLDS),
        "volumes": [
            score_row(volume) | {"wrong_objects": [_wrong(found) for found in volume.wrong]}
            for volume in evaluation.volumes
        ],
        "pooled": score_row(evaluation.pooled),
        "problems": [dataclasses.asdict(problem) for problem in evaluation.problems],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def score_row(scores: VolumeScores) -> dict[str, Any]:
    """The columns of the table, in their order."""
    voxels = scores.voxels
    row: dict[str, Any] = {
        "volume": scores.name,
        "dice": voxels.dice,
        "iou": voxels.iou,
        "precision": voxels.precision,
        "recall": voxels.recall,
    }
    for index, value in enumerate(scores.class_values):
        one = voxels.of_class(index)
        row |= {
            f"dice_class_{value}": one.dice,
            f"iou_class_{value}": one.iou,
            f"precision_class_{value}": one.precision,
            f"recall_class_{value}": one.recall,
        }
    return row | (_object_columns(scores.objects) if scores.objects is not None else {})


def _object_columns(objects: ObjectScores) -> dict[str, Any]:
    row: dict[str, Any] = {
        "true_objects": objects.num_true,
        "predicted_objects": objects.num_predicted,
        "count_error": objects.count_error,
        "mean_average_precision": objects.mean_average_precision,
        "panoptic_quality": objects.panoptic_quality,
        "segmentation_quality": objects.segmentation_quality,
        "recognition_quality": objects.recognition_quality,
        "seg": objects.seg,
    }
    for threshold in THRESHOLDS:
        counts = objects.at(threshold)
        at = f"at_{threshold:.2f}"
        row |= {
            f"f1_{at}": counts.f1,
            f"objects_precision_{at}": counts.precision,
            f"objects_recall_{at}": counts.recall,
            f"average_precision_{at}": counts.average_precision,
            f"tp_{at}": counts.tp,
            f"fp_{at}": counts.fp,
            f"fn_{at}": counts.fn,
        }
    return row


def _wrong(found: WrongObject) -> dict[str, Any]:
    return dataclasses.asdict(found) | {"kind": found.kind.name.lower()}


def _write_picture(evaluation: Evaluation, path: Path) -> None:
    from napari_celltrain.runs.score_plot import save_score_plot

    def write(temporary: Path) -> None:
        save_score_plot(evaluation, temporary)

    try:
        atomic.write_with(path, write)
    except OSError as error:
        raise refusal(path, error) from error
