"""``celltrain evaluate`` and ``measure``: how good predictions are, and a table of all objects of labelled volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_celltrain.cli.options import Overrides, argument, option, output_to, with_options, worded
from napari_celltrain.cli.terminal import console, report, say, show_progress, text, write_line
from napari_celltrain.runs.config_file import override
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import ConfigError, grouped
from napari_celltrain.values.text import count

if TYPE_CHECKING:
    from rich.table import Table

    from napari_celltrain.evaluate.evaluation import Evaluation, VolumeScores


@with_options("data.label_kind", "data.ignore_value")
def evaluate(
    predictions: Annotated[
        Path,
        argument(
            metavar="PREDICTIONS_OR_RUN",
            help="Folder of the predictions, or one file; or a run folder, whose validation volumes are compared.",
        ),
    ],
    labels: Annotated[
        Path | None, argument(help="Folder of the labels, or one file; left out for a run folder.")
    ] = None,
    output: Annotated[
        Path | None,
        output_to(metavar="DIR", help="Folder for scores.csv, scores.json and scores.png; earlier ones are replaced."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON object.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Compare predictions with labels: voxels (Dice, IoU …) and objects (F1, average precision, PQ, SEG, counts)."""
    if labels is None and overrides:
        raise ConfigError(
            "A run folder knows itself what its labels mean. Leave out the options on data, or give LABELS."
        )
    data = override(RunConfig(), overrides).data
    from napari_celltrain.evaluate import evaluation, tables

    if labels is None:
        steps = evaluation.evaluate_run(predictions)
    else:
        kind, ignored = data.label_kind, data.ignore_value
        steps = evaluation.evaluate(predictions, labels, label_kind=kind, ignore_value=ignored)
    found = show_progress(steps, "Comparing … {0} of {1}, {2}")
    paths = tables.write_evaluation(found, output) if output is not None else ()
    for problem in grouped(found.problems):
        report("Warning", str(worded(problem)))
    if json:
        write_line(tables.scores_json(found).rstrip())
        return
    console().print(score_table(found))
    for path in paths:
        say(f"Saved {path}")


def score_table(found: Evaluation) -> Table:
    """The scores that fit a screen; the files have all."""
    from rich import box
    from rich.table import Table

    title = f"{count(len(found.volumes), 'volume')} compared as {found.label_kind}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    rows = [_cells(scores) for scores in (*found.volumes, found.pooled)]
    for index, title in enumerate(rows[0]):
        table.add_column(title, justify="right" if index else "left", overflow="fold", no_wrap=bool(index))
    for row in rows:
        style = "bold" if row is rows[-1] else ""
        table.add_row(*map(text, row.values()), style=style, end_section=row is rows[-2])
    return table


def _cells(scores: VolumeScores) -> dict[str, str]:
    voxels, objects = scores.voxels, scores.objects
    cells = {"Volume": scores.name, "Dice": _score(voxels.dice), "IoU": _score(voxels.iou)}
    for index, value in enumerate(scores.class_values):
        cells[f"Dice of {value}"] = _score(voxels.of_class(index).dice)
    if objects is None:
        return cells | {"Precision": _score(voxels.precision), "Recall": _score(voxels.recall)}
    cells |= {f"F1 at {threshold:g}": _score(objects.at(threshold).f1) for threshold in (0.5, 0.7, 0.9)}
    return cells | {
        "Mean AP": _score(objects.mean_average_precision),
        "PQ": _score(objects.panoptic_quality),
        "SEG": _score(objects.seg),
        "Labelled": str(objects.num_true),
        "Predicted": str(objects.num_predicted),
    }


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


@with_options("data.axes", "data.voxel_size")
def measure(
    labels: Annotated[Path, argument(help="Folder of the labels, or one file.")],
    output: Annotated[
        Path, output_to(metavar="FILE.csv", help="The table, a row for each object; an earlier one is replaced.")
    ],
    image: Annotated[
        Path | None,
        option(
            metavar="PATH",
            help="Images in which intensities are measured, all channels: a folder, paired with the labels by name, "
            "or one file.",
        ),
    ] = None,
    *,
    overrides: Overrides,
) -> None:
    """Measure every object: position, volume, shape, and intensity where there are images."""
    data = override(RunConfig(), overrides).data
    from napari_celltrain.evaluate.tables import measure_files

    steps = measure_files(labels, output, image=image, axes=data.axes, voxel_size=data.voxel_size)
    num_volumes, num_objects, problems = show_progress(steps, "Measuring {2} … {0} of {1} objects")
    for problem in grouped(problems):
        report("Warning", str(worded(problem)))
    say(f"Measured {count(num_objects, 'object')} of {count(num_volumes, 'volume')}.")
    say(f"Saved {output}")
