"""The picture of an evaluation: F1 against the overlap that is asked for, and how many objects were found.

Only matplotlib's object interface is used: pyplot and its global state belong to whoever runs us.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_celltrain.engine.object_scores import THRESHOLDS, ObjectScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_celltrain.runs.evaluation import Evaluation

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
