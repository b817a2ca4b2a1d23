"""``celltrain check``, ``config`` and ``list``: the data, the settings and the choices, looked at before training."""

from __future__ import annotations

import json as json_module
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_celltrain.cli.options import Overrides, argument, output_to, with_options, worded
from napari_celltrain.cli.terminal import ExitCode, console, report, say, show_progress, text, write_line
from napari_celltrain.registry import Registry
from napari_celltrain.runs.config_file import absolute_paths, dump_config, override
from napari_celltrain.values import files
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import ConfigError, Problem, grouped
from napari_celltrain.values.outside import kind_of
from napari_celltrain.values.text import count, sizes

if TYPE_CHECKING:
    from rich.table import Table

    from napari_celltrain.data.check import DataReport, PairReport


@with_options(
    *(f"data.{name}" for name in ("label_kind", "ignore_value", "channel", "axes", "voxel_size")),
    "augmentation.patch_size",
)
def check(
    images: Annotated[Path, argument(help="Folder of the images, or one file.")],
    labels: Annotated[Path, argument(help="Folder of the labels, or one file.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
    *,
    overrides: Overrides,
) -> None:
    """Look at images and labels before training: a table of the pairs, and every problem with what to do about it.

    Exit code 0 when nothing was found, 1 otherwise.
    """
    from napari_celltrain.data.check import check_data

    paths = [f"data.images={images}", f"data.labels={labels}"]
    settings = absolute_paths(override(RunConfig(), [*overrides, *paths]))
    steps = check_data(settings.data, patch_size=settings.augmentation.patch_size)
    found = show_progress(steps, "Reading the volumes … {0} of {1}, {2}")
    of_pairs = (problem for pair in found.pairs for problem in pair.problems)
    problems = list(dict.fromkeys([*found.problems, *of_pairs]))  # each once
    if json:
        content = {"pairs": list(map(asdict, found.pairs)), "problems": list(map(asdict, problems))}
        write_line(json_module.dumps(content, default=str))
    else:
        _print(found, grouped(problems))
    if problems:
        raise typer.Exit(ExitCode.PROBLEMS_FOUND)


def _print(found: DataReport, problems: list[Problem]) -> None:
    output = console()
    if found.pairs:
        output.print(_table(found.pairs, output.width))
    for problem in problems:
        error = problem.severity == "error"
        line = text("✗ " if error else "! ", "bold red" if error else "bold yellow")
        line += text(f"{problem.where}: ", "bold") + text(problem.message) + text(f" {worded(problem).remedy}", "cyan")
        output.print(line, soft_wrap=True)
    pairs, them = count(len(found.pairs), "pair"), "it" if len(found.pairs) == 1 else "them"
    if not problems:
        say(f"✓ {pairs}, and nothing is wrong with {them}.", "bold green")
    else:
        say(f"{pairs}, {count(len(problems), 'problem')}.", "bold")


_NAME_WIDTH = 24
"""Longer names of pairs may be folded rather than push out a column."""
_DISPENSABLE = ("Intensities", "Labels", "Type", "Voxel (µm)", "Foreground", "Objects")
"""Columns that are left out, the first one first, where the terminal is too narrow for all."""


def _table(pairs: Sequence[PairReport], width: int) -> Table:
    """As many columns as can be shown whole."""
    from rich import box
    from rich.table import Table

    rows = [{title: text(cell) for title, cell in _cells(pair).items()} for pair in pairs]
    widths = {title: max(len(title), *(row[title].cell_len for row in rows)) for title in rows[0]}
    widths["Pair"] = min(widths["Pair"], _NAME_WIDTH)
    for title in _DISPENSABLE:
        if sum(widths.values()) + 3 * len(widths) + 1 > width:  # three between columns
            del widths[title]
    table = Table(box=box.SIMPLE_HEAD)
    for title in widths:
        is_word = title in ("Pair", "Type", "Labels")
        table.add_column(title, justify="left" if is_word else "right", no_wrap=title != "Pair", overflow="fold")
    for pair, row in zip(pairs, rows, strict=True):
        bad = any(problem.severity == "error" for problem in pair.problems)
        table.add_row(*(row[title] for title in widths), style="red" if bad else "yellow" if pair.problems else "")
    return table


def _cells(pair: PairReport) -> dict[str, str]:
    share, intensities = pair.foreground_fraction, pair.intensity_range
    return {
        "Pair": pair.name,
        "Shape (z, y, x)": sizes(pair.shape or ()),
        "Type": pair.dtype or "",
        "Labels": pair.label_dtype or "",
        "Voxel (µm)": sizes(pair.voxel_size) if pair.voxel_size else "unknown" if pair.shape else "",
        "Objects": "" if pair.num_objects is None else str(pair.num_objects),
        "Foreground": "" if share is None else f"{share:.1%}",
        "Intensities": "" if intensities is None else " – ".join(f"{value:.5g}" for value in intensities),
    }


def slurm_script(config: Path, nodes: int, gpus: int, time: str, partition: str | None = None) -> str:
    """``time`` as SLURM writes it: ``HH:MM:SS`` or ``D-HH:MM:SS``. Raises ``ConfigError`` for any other."""
    match = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d):[0-5]\d", time)
    if match is None:
        raise ConfigError(f"--time: {time!r} must be HH:MM:SS or D-HH:MM:SS, such as 04:00:00.")
    minutes = int(match["days"] or 0) * 1440 + int(match["hours"]) * 60 + int(match["minutes"])
    if partition is not None and not re.fullmatch(r"[\w.,-]+", partition):
        raise ConfigError(f"--partition: {partition!r} is not the name of a partition.")
    # For loading, the last validation and writing its predictions.
    reserve = min(15, max(2, minutes // 10))
    if minutes <= reserve:
        raise ConfigError(f"--time: {time} is too short; give at least 5 minutes, such as 00:05:00.")
    template = Path(__file__).with_name("slurm_template.sh").read_text(encoding="utf-8")
    return template.format(
        nodes=nodes,
        gpus=gpus,
        cpus=4 * gpus,
        time=time,
        partition=f"#SBATCH --partition={partition}\n" if partition else "",
        config=shlex.quote(str(config)),
        max_minutes=minutes - reserve,
    )


_of_slurm = partial(typer.Option, rich_help_panel="Job script for SLURM")


@with_options()
def config(
    config: Annotated[Path, typer.Argument(help="With --slurm: the configuration that the job trains.")] = Path(
        "config.yaml"
    ),
    output: Annotated[Path | None, output_to(metavar="FILE", help="Write to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    slurm: Annotated[bool, _of_slurm("--slurm", help="Print a job script for sbatch instead.")] = False,
    gpus: Annotated[int, _of_slurm(metavar="N", min=1, help="GPUs on each node.")] = 1,
    nodes: Annotated[int, _of_slurm(metavar="M", min=1, help="Nodes.")] = 1,
    time: Annotated[str, _of_slurm(metavar="HH:MM:SS", help="Longest time of the job.")] = "04:00:00",
    partition: Annotated[str | None, _of_slurm(metavar="NAME", help="Partition.")] = None,
    *,
    overrides: Overrides,
) -> None:
    """Print a configuration with every setting explained, to be edited and trained by `celltrain train FILE`."""
    if slurm:
        if kind_of(config) is None:
            report("Warning", f"There is no {config} yet, which the job trains. Write it before you submit the job.")
        content = slurm_script(config, nodes, gpus, time, partition)
    else:
        content = dump_config(override(RunConfig(), overrides), commented=True)
    if output is None:
        write_line(content.removesuffix("\n"))
        return
    if kind_of(output) is not None and not force:
        raise ConfigError(f"{output} exists already. Choose another name, or replace it with --force.")
    with files.writing(output):
        files.write_text(output, content)
    say(f"Written to {output}")


def list_choices(
    kind: Annotated[
        Literal["models", "losses", "augmentations"] | None, argument(help="What to list; everything, where left out.")
    ] = None,
) -> None:
    """List the models, losses or augmentations that can be chosen, those of other packages included."""
    from rich import box
    from rich.table import Table

    modules = {"models": "models", "losses": "losses", "augmentations": "augment"}
    for each in [kind] if kind is not None else modules:
        registry: Registry[Any] = getattr(import_module(f"napari_celltrain.nets.{modules[each]}"), each.upper())
        table = Table(title=each.capitalize(), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("Key", style="bold cyan", no_wrap=True)
        table.add_column("Name", no_wrap=True)
        table.add_column("What it is")
        for entry in registry:
            table.add_row(text(entry.key), text(entry.label), text(entry.help))
        console().print(table)
