"""Scores and measurements as files: tables for spreadsheets, JSON for programs, a picture.

Only matplotlib's object interface is used: pyplot and its global state belong to the calling program.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celltrain.data.measure import Columns, measuring
from napari_celltrain.data.pairs import pair_files
from napari_celltrain.engine.scores import THRESHOLDS
from napari_celltrain.evaluate.evaluation import Evaluation, Step, VolumeScores
from napari_celltrain.io.axes import SeveralChannelsError
from napari_celltrain.io.volume import Volume
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError, Problem, each_of, raise_problems
from napari_celltrain.values.files import write_table, write_text, write_with, writing
from napari_celltrain.values.text import sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VOXEL_SCORES = ("dice", "iou", "precision", "recall")
_OBJECT_SCORES = (
    *("count_error", "mean_average_precision", "panoptic_quality"),
    *("segmentation_quality", "recognition_quality", "seg"),
)
_SCORES_AT_IOU = {"f1": "f1", "objects_precision": "precision", "objects_recall": "recall"}
_SCORES_AT_IOU |= {name: name for name in ("average_precision", "tp", "fp", "fn")}
# Okabe and Ito (2008): told apart by all kinds of colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""With more volumes, single ones are drawn in grey, since nobody tells that many colours apart."""
_OTHER = "#999999"
_POOLED = "#000000"
_MAX_NAME = 28


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write ``scores.csv``, ``scores.json`` and ``scores.png`` to ``folder``, which is made; gives their paths.

    Raises :class:`DataError` where that cannot be done.
    """
    table, values, picture = (folder / f"scores.{suffix}" for suffix in ("csv", "json", "png"))
    rows = [score_row(scores) for scores in (*evaluation.volumes, evaluation.pooled)]
    write_table(table, list(rows[0]), [list(row.values()) for row in rows])
    with writing(folder, DataError):
        write_text(values, scores_json(evaluation))
        write_with(picture, partial(save_score_plot, evaluation))
    return table, values, picture


def scores_json(evaluation: Evaluation) -> str:
    """All scores, and every object that is wrong. Scores without a value, such as SEG without a labelled object, are
    null."""
    content = {
        "schema_version": 1,
        "label_kind": evaluation.label_kind,
        "iou_thresholds": list(THRESHOLDS),
        "volumes": [
            score_row(volume)
            | {"wrong_objects": [asdict(found) | {"kind": found.kind.name.lower()} for found in volume.wrong]}
            for volume in evaluation.volumes
        ],
        "pooled": score_row(evaluation.pooled),
        "problems": [asdict(problem) for problem in evaluation.problems],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def score_row(scores: VolumeScores) -> dict[str, Any]:
    """The columns of the table, in their order."""
    row: dict[str, Any] = {"volume": scores.name}
    row |= {name: getattr(scores.voxels, name) for name in _VOXEL_SCORES}
    for index, value in enumerate(scores.class_values):
        row |= {f"{name}_class_{value}": getattr(scores.voxels.of_class(index), name) for name in _VOXEL_SCORES}
    objects = scores.objects
    if objects is None:
        return row
    row |= {"true_objects": objects.num_true, "predicted_objects": objects.num_predicted}
    row |= {name: getattr(objects, name) for name in _OBJECT_SCORES}
    for threshold, counts in zip(THRESHOLDS, objects.counts, strict=True):
        row |= {f"{title}_at_{threshold:.2f}": getattr(counts, name) for title, name in _SCORES_AT_IOU.items()}
    return row


def save_score_plot(evaluation: Evaluation, path: Path) -> None:
    """F1 against the overlap that is asked for, and how many objects were found; where labels are not objects, the Dice
    of each volume. Drawn in the format of the suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if evaluation.pooled.objects is None:
        _draw_dice(figure.add_subplot(), evaluation)
    else:
        left, right = figure.subplots(1, 2)
        _draw_objects(left, right, evaluation)
    for axes in figure.axes:
        axes.grid(True, color="#E4E4E4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_dice(axes: Axes, evaluation: Evaluation) -> None:
    rows = (*evaluation.volumes, evaluation.pooled)
    colors = [_COLORS[0]] * len(evaluation.volumes) + [_POOLED]
    axes.barh(range(len(rows)), [row.voxels.dice for row in rows], color=colors)
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="Dice", xlim=(0, 1))


def _draw_objects(left: Axes, right: Axes, evaluation: Evaluation) -> None:
    from matplotlib.ticker import MaxNLocator

    named = len(evaluation.volumes) <= len(_COLORS)
    colors = cycle(_COLORS if named else (_OTHER,))
    for index, (scores, color) in enumerate(zip((*evaluation.volumes, evaluation.pooled), colors, strict=False)):
        objects, is_pooled = scores.objects, index == len(evaluation.volumes)  # which a single volume may be, too
        if objects is None:
            continue
        color, width = (_POOLED, 2.4) if is_pooled else (color, 1.2)
        label = "pooled" if is_pooled else _short(scores.name) if named else None
        f1s = [counts.f1 for counts in objects.counts]
        left.plot(THRESHOLDS, f1s, "-o", color=color, linewidth=width, markersize=2 * width, label=label)
        if not is_pooled:
            right.plot(objects.num_true, objects.num_predicted, "o", color=color)
    left.set(xlabel="IoU from which on an object counts as found", ylabel="F1", ylim=(-0.02, 1.02))
    left.set_xticks(THRESHOLDS[::2])
    for text in left.legend(fontsize=8, frameon=False, loc="lower left").get_texts():
        text.set_parse_math(False)  # a $ in a file's name is no formula
    top = max(1.0, *right.dataLim.max) * 1.08
    right.plot([0, top], [0, top], "--", color=_OTHER, linewidth=1, zorder=0)
    right.set(xlabel="Labelled objects", ylabel="Predicted objects", xlim=(0, top), ylim=(0, top), aspect="equal")
    right.text(top * 0.97, top * 0.03, "dashed: as many as labelled", color=_OTHER, fontsize=8, ha="right")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


# --- measurements of objects ------------------------------------------------------------------------------------------


def measure_files(
    labels: Path, output: Path, *, image: Path | None = None, axes: str | None = None, voxel_size: Spacing | None = None
) -> Generator[Step, None, tuple[int, int, list[Problem]]]:
    """Write a table with a row for each object of each volume of ``labels`` (a file or folder), named in the first
    column. ``image`` is a file or folder that is paired with the labels by name. The steps count the objects of each
    volume. Gives the numbers of volumes and objects, and warnings, such as of images without labels. Raises
    :class:`DataError`.
    """
    if output.suffix.lower() != ".csv":
        remedy = "Give a name that ends in .csv."
        raise DataError(Problem("not-csv", str(output), "the table is written as CSV.", remedy, settings=("output",)))
    problems: list[Problem] = []
    files: list[tuple[Path, Path | None]] = []
    if image is None:
        files += [(path, None) for path in find_volumes(labels)]
    else:
        found = pair_files(image, labels)
        raise_problems(found.problems, DataError, "Images and labels do not pair up:")
        files += [(pair.labels, pair.image) for pair in found.pairs]
        problems += found.problems
    tables: list[tuple[str, Columns]] = []
    opened = each_of(partial(open_labels, path, axes=axes, voxel_size=voxel_size) for path, _ in files)
    images = each_of(partial(_open_channels, path, axes, voxel_size) for _, path in files)
    for volume, channels in zip(opened, images, strict=True):
        problems += [remark for each in (volume, *channels[:1]) for remark in each.remarks]
        size = volume.voxel_size or next((channel.voxel_size for channel in channels), None)
        if size is None:
            message = "The file does not tell the size of a voxel, so its lengths are in voxels."
            advice = "Give the voxel size."
            settings = ("data.voxel_size",)
            problems.append(Problem("no-voxel-size", volume.where, message, advice, "warning", settings))
        columns = yield from _measure(volume, channels, size)
        tables.append((volume.name, columns))
    header = list(dict.fromkeys(title for _, columns in tables for title in columns))
    rows = [
        [name, *(columns[title][row] if title in columns else None for title in header)]
        for name, columns in tables
        for row in range(len(columns["label"]))
    ]
    write_table(output, ["volume", *header], rows)
    return len(tables), len(rows), problems


def _open_channels(path: Path | None, axes: str | None, voxel_size: Spacing | None) -> list[Volume]:
    """Every channel as a volume of its own."""
    if path is None:
        return []
    try:
        return [open_volume(path, axes=axes, voxel_size=voxel_size)]
    except SeveralChannelsError as error:
        return [open_volume(path, axes=axes, channel=i, voxel_size=voxel_size) for i in range(error.num_channels)]


def _measure(labels: Volume, channels: list[Volume], size: Spacing | None) -> Generator[Step, None, Columns]:
    for channel in channels:
        if channel.shape != labels.shape:
            message = f"has {sizes(channel.shape)} voxels, but its labels {labels.where} {sizes(labels.shape)}."
            remedy = "Give the image that these labels were made of."
            raise DataError(Problem("shape-mismatch", channel.where, message, remedy))
    columns: Columns = {}

    def measured() -> Iterator[tuple[int, int]]:
        images = [channel.lazy_or_whole() for channel in channels]
        columns.update((yield from measuring(labels.lazy_or_whole(), images, size)))

    try:
        for done, total in measured():
            yield done, total, labels.name
    except DataError as error:
        raise DataError(*(replace(found, where=found.where or labels.where) for found in error.problems)) from error
    return columns
