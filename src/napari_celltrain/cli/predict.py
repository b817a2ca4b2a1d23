"""``celltrain predict``: apply a trained model to new volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.follow import follow
from napari_celltrain.cli.settings import AXES, CHANNEL, VOXEL_SIZE, ConfigOption, Overrides, with_settings
from napari_celltrain.cli.terminal import console, is_main_process, text
from napari_celltrain.cli.train import Json
from napari_celltrain.config import RunConfig
from napari_celltrain.runs.config_file import override

_DEVICE = ConfigOption(
    "--device",
    "training.device",
    "DEVICE",
    help="Where to compute: auto (the GPU when there is one), cpu, cuda, cuda:1, or mps.",
)


@with_settings(_DEVICE, CHANNEL, AXES, VOXEL_SIZE)
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, or a model in one.", show_default=False)
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Volumes, or folders with all their subfolders.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the results, NAME.tif for each volume; earlier ones of the same name are replaced.",
            show_default=False,
        ),
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probabilities as well as the labels.")
    ] = False,
    json: Json = False,
    *,
    overrides: Overrides,
) -> None:
    """Segment new volumes by a trained model, exactly as its validation volumes were."""
    settings = override(RunConfig(), overrides)
    from napari_celltrain.runs import prediction

    display = make_display(json)
    events = prediction.predict(
        model,
        inputs,
        output,
        device=settings.training.device,
        probabilities=probabilities,
        axes=settings.data.axes,
        channel=settings.data.channel,
        voxel_size=settings.data.voxel_size,
    )
    follow(events, display)
    if is_main_process() and not display.for_programs:
        console().print(text(f"The results are in {output.absolute()}"), soft_wrap=True)
