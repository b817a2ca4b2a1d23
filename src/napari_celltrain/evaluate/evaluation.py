"""How good predictions are, compared with labels: of arrays, of files and folders, of a run's validation volumes.

What each score means, and where its formula comes from, is told in ``docs/scores.md``.

The picture of an evaluation: F1 against the overlap that is asked for, and how many objects were found.

Only matplotlib's object interface is used: pyplot and its global state belong to whoever runs us.

The scores of an evaluation as files: a table, JSON for programs, a picture.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celltrain.data.differences import Difference, WrongObject
from napari_celltrain.engine.scores import THRESHOLDS, ObjectScores, VoxelCounts
from napari_celltrain.evaluate.comparison import compare, find_class_values
from napari_celltrain.evaluate.pairs import FilePair, pair_predictions, read_run
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values import files
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.files import table_refusal, write_file, write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Evaluation", "VolumeScores", "evaluate", "evaluate_arrays", "evaluate_run", "write_evaluation"]

POOLED = "pooled"
"""Name of the scores of all volumes together."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, name). It may raise, to end the comparison: the exception passes through."""


@dataclass(frozen=True, slots=True)
class VolumeScores:
    """The scores of one volume, or of several added up (``+``), which adds counts and averages nothing."""

    name: str
    voxels: VoxelCounts
    """Has ``dice``, ``iou``, ``precision`` and ``recall``, means over classes; ``of_class(k)`` is the k-th alone."""
    objects: ObjectScores | None
    """None where labels are not objects."""
    class_values: tuple[int, ...] = ()
    """The label value of each class of ``voxels``, background left out; empty unless labels are classes."""
    wrong: tuple[WrongObject, ...] = ()
    """Objects that were not found as labelled, largest first; empty for several volumes."""
    voxel_size: Spacing | None = None

    def __add__(self, other: VolumeScores) -> VolumeScores:
        objects = None
        if self.objects is not None and other.objects is not None:
            objects = self.objects + other.objects
        return VolumeScores(POOLED, self.voxels + other.voxels, objects, self.class_values)

    def wrong_of(self, kind: Difference) -> tuple[WrongObject, ...]:
        """Those of one kind: ``MISSED_OBJECT``, ``FALSE_OBJECT``, ``SPLIT_OBJECT`` or ``MERGED_OBJECTS``."""
        return tuple(found for found in self.wrong if found.kind == kind)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found; :func:`write_evaluation` writes it."""

    label_kind: LabelKind
    volumes: tuple[VolumeScores, ...]
    pooled: VolumeScores
    problems: tuple[Problem, ...] = ()
    """Warnings, such as of files that have no partner and were left out."""


def evaluate(
    predictions: Path,
    labels: Path,
    *,
    label_kind: LabelKind = "objects",
    ignore_value: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the volumes of two folders, or two files, paired by name as images and labels are.

    Raises :class:`DataError` naming the file, where one cannot be read or has another shape than its partner.
    """
    pairs, problems = pair_predictions(predictions, labels)
    return _evaluate_pairs(pairs, label_kind, ignore_value, (), problems, progress)


def evaluate_run(run: Path, *, progress: Progress | None = None) -> Evaluation:
    """Compare ``validation/*.tif`` of a run folder with the labels that it was validated on.

    Raises :class:`RunFolderError` where these are not there yet, :class:`DataError` where labels cannot be read.
    """
    found = read_run(run)
    return _evaluate_pairs(
        found.pairs, found.label_kind, found.ignore_value, found.class_values, found.problems, progress
    )


def evaluate_arrays(
    truth_ZYX: LazyArray,
    predicted_ZYX: LazyArray,
    voxel_size: Spacing | None = None,
    *,
    name: str = "",
    label_kind: LabelKind = "objects",
    ignore_value: int | None = None,
    class_values: Sequence[int] = (),
    progress: Progress | None = None,
) -> VolumeScores:
    """Compare two arrays of label values (any integer type, 0 background); they are read slab by slab.

    ``class_values`` of kind ``classes``, the background first, are found out where left empty. ``progress`` hears of
    planes. For a picture of what is wrong see :func:`napari_celltrain.data.differences.mark_wrong`. Raises
    :class:`DataError` for other shapes, and for fractions.
    """
    sides = (f"{name} (labels)", f"{name} (prediction)") if name else ("The labels", "The prediction")
    if label_kind == "classes":
        class_values = find_class_values([(truth_ZYX, predicted_ZYX, sides)], ignore_value, class_values)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, name)

    found = compare(truth_ZYX, predicted_ZYX, sides, label_kind, ignore_value, class_values, tell)
    foreground = tuple(class_values[1:]) if label_kind == "classes" else ()
    return VolumeScores(name, found.voxels, found.objects, foreground, found.wrong, voxel_size)


def _evaluate_pairs(
    pairs: Sequence[FilePair],
    label_kind: LabelKind,
    ignore_value: int | None,
    class_values: Sequence[int],
    problems: Sequence[Problem],
    progress: Progress | None,
) -> Evaluation:
    """One volume is in memory at a time, and of it no more than its file makes necessary."""
    if label_kind == "classes":
        volumes = ((*pair.open(), pair.sides) for pair in pairs)
        class_values = find_class_values(volumes, ignore_value, class_values)
    scores = []
    for index, pair in enumerate(pairs):
        if progress is not None:
            progress(index, len(pairs), pair.name)
        truth, predicted = pair.open()
        found = compare(truth, predicted, pair.sides, label_kind, ignore_value, class_values, _silent)
        foreground = tuple(class_values[1:]) if label_kind == "classes" else ()
        scores.append(VolumeScores(pair.name, found.voxels, found.objects, foreground, found.wrong, pair.voxel_size))
    if progress is not None:
        progress(len(pairs), len(pairs), "")
    pooled = replace(reduce(add, scores), name=POOLED, wrong=(), voxel_size=None)
    return Evaluation(label_kind, tuple(scores), pooled, (*problems, *_masks(scores, pairs)))


def _silent(done: int, total: int) -> None:
    return None


def _masks(scores: Iterable[VolumeScores], pairs: Iterable[FilePair]) -> list[Problem]:
    """A mask in which all objects have one number looks like a single, huge object."""
    problems = []
    for score, pair in zip(scores, pairs, strict=True):
        if score.objects is None:
            continue
        counts = (score.objects.num_true, score.objects.num_predicted)
        if min(counts) == 1 and max(counts) > 2:
            message = f"All that is in it has one number, so it counts as one object against {max(counts)}."
            remedy = "If it is a mask, number its objects first, or compare as label kind foreground."
            side = pair.sides[0 if counts[0] == 1 else 1]
            problems.append(Problem("looks-like-mask", side, message, remedy, "warning"))
    return problems


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write ``scores.csv``, ``scores.json`` and ``scores.png`` to ``folder``, which is made; gives their paths.

    Raises :class:`DataError` where that cannot be done.
    """

    return write_scores(evaluation, folder)


# --- score plot ------------------------------------------------------------------------------------------

# Okabe and Ito (2008): told apart by all kinds of colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_OTHER = "#999999"
_POOLED = "#000000"
_MAX_NAMED = len(_COLORS)
"""With more volumes, single ones are drawn in grey, since nobody tells that many colours apart."""
_MAX_NAME = 28


def save_score_plot(evaluation: Evaluation, path: Path) -> None:
    """Draw to ``path`` in the format of its suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw_scores(figure, evaluation)
    figure.savefig(path)


def draw_scores(figure: Figure, evaluation: Evaluation) -> None:
    """Two axes where labels are objects, else one with the Dice of each volume."""
    objects = [volume.objects for volume in evaluation.volumes]
    if evaluation.pooled.objects is None or any(scores is None for scores in objects):
        _draw_dice(figure.add_subplot(), evaluation)
        return
    left, right = figure.subplots(1, 2)
    named = len(objects) <= _MAX_NAMED
    colors = _COLORS if named else (_OTHER,) * len(objects)
    for volume, color in zip(evaluation.volumes, colors, strict=False):
        if volume.objects is not None:
            label = _short(volume.name) if named else None
            _draw_f1(left, volume.objects, color, 1.2, label)
            right.plot(volume.objects.num_true, volume.objects.num_predicted, "o", color=color, label=label)
    _draw_f1(left, evaluation.pooled.objects, _POOLED, 2.4, "pooled")
    left.set(xlabel="IoU from which on an object counts as found", ylabel="F1", ylim=(-0.02, 1.02))
    left.set_xticks([threshold for index, threshold in enumerate(THRESHOLDS) if index % 2 == 0])
    _draw_diagonal(right)
    right.set(xlabel="Labelled objects", ylabel="Predicted objects")
    for axes in (left, right):
        _tidy(axes)
    legend = left.legend(fontsize=8, frameon=False, loc="lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in a file's name is no formula


def _draw_f1(axes: Axes, scores: ObjectScores, color: str, width: float, label: str | None) -> None:
    f1s = [counts.f1 for counts in scores.counts]
    axes.plot(THRESHOLDS, f1s, "-o", color=color, linewidth=width, markersize=2 * width, label=label)


def _draw_diagonal(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    top = max(1.0, *axes.dataLim.max) * 1.08
    axes.plot([0, top], [0, top], "--", color=_OTHER, linewidth=1, zorder=0)
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.set_aspect("equal")
    axes.text(top * 0.97, top * 0.03, "dashed: as many as labelled", color=_OTHER, fontsize=8, ha="right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_dice(axes: Axes, evaluation: Evaluation) -> None:
    rows = (*evaluation.volumes, evaluation.pooled)
    colors = [_COLORS[0]] * len(evaluation.volumes) + [_POOLED]
    axes.barh(range(len(rows)), [row.voxels.dice for row in rows], color=colors)
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="Dice", xlim=(0, 1))
    _tidy(axes)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _tidy(axes: Axes) -> None:
    axes.grid(True, color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# --- score files -----------------------------------------------------------------------------------------


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

    def write(temporary: Path) -> None:
        save_score_plot(evaluation, temporary)

    try:
        files.write_with(path, write)
    except OSError as error:
        raise table_refusal(path, error) from error
