"""``celltrain measure``: a table of all objects of labelled volumes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from napari_celltrain.cli.settings import AXES, VOXEL_SIZE, Overrides, with_settings
from napari_celltrain.cli.terminal import console, tell_warning, text
from napari_celltrain.config import RunConfig
from napari_celltrain.runs.config_file import override
from napari_celltrain.runs.wording import counted


@with_settings(AXES, VOXEL_SIZE)
def measure(
    labels: Annotated[Path, typer.Argument(help="Folder of the labels, or one file.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.csv",
            help="The table, a row for each object; an earlier one is replaced.",
            show_default=False,
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="PATH",
            help="Images in which intensities are measured, all channels: a folder, paired with the labels by name, "
            "or one file.",
            show_default=False,
        ),
    ] = None,
    *,
    overrides: Overrides,
) -> None:
    """Measure every object: position, volume, shape, and intensity where there are images."""
    data = override(RunConfig(), overrides).data
    from napari_celltrain.runs.measurements import measure_files

    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("Reading the volumes …") as status:

        def tell(name: str) -> Callable[[int, int], None]:
            def progress(done: int, total: int) -> None:
                if done % 50 == 0:
                    status.update(text(f"Measuring {name} … {done} of {total} objects"))

            return progress

        found = measure_files(labels, output, image=image, axes=data.axes, voxel_size=data.voxel_size, progress=tell)
    for problem in found.problems:
        tell_warning(str(problem))
    objects, volumes = counted(found.num_objects, "object"), counted(found.num_volumes, "volume")
    console().print(text(f"Measured {objects} of {volumes}."))
    console().print(text(f"Saved {output}"), soft_wrap=True)
