"""``celltrain check``: the pairs of a data set, and everything that is wrong with them."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from napari_celltrain.cli.options import (
    AXES,
    CHANNEL,
    IGNORE_VALUE,
    LABEL_KIND,
    PATCH_SIZE,
    VOXEL_SIZE,
    Overrides,
    absolute,
    remedy_of,
    with_settings,
)
from napari_celltrain.cli.terminal import ExitCode, console, show_progress, text, write_line
from napari_celltrain.runs.config_file import override
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.text import count

if TYPE_CHECKING:
    from rich.table import Table

    from napari_celltrain.data.check import DataReport, PairReport


@with_settings(LABEL_KIND, IGNORE_VALUE, CHANNEL, AXES, VOXEL_SIZE, PATCH_SIZE)
def check(
    images: Annotated[Path, typer.Argument(help="Folder of the images, or one file.", show_default=False)],
    labels: Annotated[Path, typer.Argument(help="Folder of the labels, or one file.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Look at images and labels before training: a table of the pairs, and every problem with what to do about it.

    Exit code 0 when nothing was found, 1 otherwise.
    """
    from napari_celltrain.data.check import check_data

    paths = [f"data.images={images}", f"data.labels={labels}"]
    settings = absolute(override(RunConfig(), [*overrides, *paths]))
    steps = check_data(settings.data, patch_size=settings.augmentation.patch_size)
    report = show_progress(steps, "Reading the volumes … {done} of {total}, {name}")
    problems = [*all_problems(report), *_labels_missing_too(images, labels)]
    if json:
        write_line(_json(report, problems))
    else:
        _print(report, problems)
    if problems:
        raise typer.Exit(ExitCode.PROBLEMS_FOUND)


def all_problems(report: DataReport) -> list[Problem]:
    """Those of the whole and of each pair, each once."""
    found = [*report.problems, *(problem for pair in report.pairs for problem in pair.problems)]
    return list(dict.fromkeys(found))


def _labels_missing_too(images: Path, labels: Path) -> list[Problem]:
    """Pairing tells of the first folder that it does not find; nobody wants to hear of the second one next time."""
    if images.exists() or labels.exists():
        return []
    remedy = "Choose another folder, or connect the drive it is on."
    return [Problem("no-volumes", str(labels.absolute()), "The folder does not exist.", remedy)]


def _json(report: DataReport, problems: list[Problem]) -> str:
    content = {
        "pairs": [dataclasses.asdict(pair) for pair in report.pairs],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }
    return json_module.dumps(content, default=str)


def _print(report: DataReport, problems: list[Problem]) -> None:
    output = console()
    if report.pairs:
        output.print(_table(report, output))
    for problem in problems:
        error = problem.severity == "error"
        line = text("✗ " if error else "! ", "bold red" if error else "bold yellow")
        line += text(f"{problem.where}: ", "bold") + text(problem.message) + text(f" {remedy_of(problem)}", "cyan")
        output.print(line, soft_wrap=True)
    pairs, them = count(len(report.pairs), "pair"), "it" if len(report.pairs) == 1 else "them"
    if not problems:
        output.print(text(f"✓ {pairs}, and nothing is wrong with {them}.", "bold green"))
    else:
        output.print(text(f"{pairs}, {count(len(problems), 'problem')}.", "bold"))


_TITLES = ("Pair", "Shape (z, y, x)", "Type", "Labels", "Voxel (µm)", "Objects", "Foreground", "Intensities")
_DISPENSABLE = ("Intensities", "Labels", "Type", "Voxel (µm)", "Foreground", "Objects")
"""Columns that are left out, the first one first, where the terminal is too narrow for all."""
_NAME_WIDTH = 24
"""Longer names of pairs may be folded rather than push out a column."""


def _table(report: DataReport, output: Console) -> Table:
    """As many columns as can be shown whole."""
    from rich import box
    from rich.table import Table

    rows = [dict(zip(_TITLES, map(text, _cells(pair)), strict=True)) for pair in report.pairs]
    widths = {title: max(len(title), *(row[title].cell_len for row in rows)) for title in _TITLES}
    widths["Pair"] = min(widths["Pair"], _NAME_WIDTH)
    gap = 3
    titles = list(_TITLES)
    for title in _DISPENSABLE:
        if sum(widths[shown] + gap for shown in titles) + 1 > output.width:
            titles.remove(title)
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        is_word = title in ("Pair", "Type", "Labels")
        table.add_column(title, justify="left" if is_word else "right", no_wrap=title != "Pair", overflow="fold")
    for pair, row in zip(report.pairs, rows, strict=True):
        bad = any(problem.severity == "error" for problem in pair.problems)
        table.add_row(*(row[title] for title in titles), style="red" if bad else "yellow" if pair.problems else "")
    return table


def _cells(pair: PairReport) -> list[str]:
    return [
        pair.name,
        " × ".join(map(str, pair.shape)) if pair.shape else "",
        str(pair.dtype),
        str(pair.label_dtype),
        " × ".join(f"{size:.4g}" for size in pair.voxel_size) if pair.voxel_size else "unknown",
        "" if pair.num_objects is None else str(pair.num_objects),
        "" if pair.foreground_fraction is None else f"{pair.foreground_fraction:.1%}",
        "" if pair.intensity_range is None else " – ".join(f"{value:.5g}" for value in pair.intensity_range),
    ]
