"""What ``celltrain predict`` can be told.

``celltrain predict``: apply a trained model to new volumes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.follow import follow, refusals_told
from napari_celltrain.cli.options import AXES, CHANNEL, VOXEL_SIZE, ConfigOption, Overrides, with_settings
from napari_celltrain.cli.terminal import console, is_main_process, text
from napari_celltrain.cli.train import Json
from napari_celltrain.runs.config_file import override
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import ConfigError
from napari_celltrain.values.events import Event, Saved

if TYPE_CHECKING:
    from napari_celltrain.values.decoding import ObjectDecoding

_OBJECTS = "Objects (by default as tuned when the model was trained)"
_LARGE = "Large volumes"

Model = Annotated[
    Path,
    typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, a model in one, or a model.", show_default=False),
]
Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Volumes, or folders with all their subfolders.",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Folder for the results, NAME.tif or NAME.ome.zarr for each volume; earlier ones of the same name are "
        "replaced.",
        show_default=False,
    ),
]
FileFormat = Annotated[
    Literal["auto", "tiff", "zarr"],
    typer.Option("--format", help="Of the results: auto is OME-Zarr for OME-Zarr, TIFF for TIFF."),
]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Write the probabilities as well as the labels.")]
Resample = Annotated[
    bool,
    typer.Option(
        "--resample",
        help="Show the network the image at the voxel size that it was trained on; the labels are brought back.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Probability from which a voxel is foreground.",
        show_default=False,
        rich_help_panel=_OBJECTS,
    ),
]
Method = Annotated[
    Literal["components", "watershed", "learned"] | None,
    typer.Option(help="How touching objects are told apart.", show_default=False, rich_help_panel=_OBJECTS),
]
Smoothing = Annotated[
    float | None,
    typer.Option(
        metavar="UM", help="Of the map in which middles are sought.", show_default=False, rich_help_panel=_OBJECTS
    ),
]
SeedDistance = Annotated[
    float | None,
    typer.Option(
        metavar="UM",
        help="Smallest distance between the middles of two objects.",
        show_default=False,
        rich_help_panel=_OBJECTS,
    ),
]
SeedLevel = Annotated[
    float | None,
    typer.Option(
        metavar="LEVEL",
        help="How clear a middle must be: learned 0 to 1, watershed depth in µm.",
        show_default=False,
        rich_help_panel=_OBJECTS,
    ),
]
MinSize = Annotated[
    float | None,
    typer.Option(
        metavar="UM3", help="Smaller objects are left out, in µm³.", show_default=False, rich_help_panel=_OBJECTS
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Compute only share I of N of the blocks: for N tasks of a cluster, which all get the same command. "
        "The last one makes the result.",
        show_default=False,
        rich_help_panel=_LARGE,
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Have the blocks computed by the workers of a dask cluster, such as tcp://host:8786.",
        show_default=False,
        rich_help_panel=_LARGE,
    ),
]


# --- predict ---------------------------------------------------------------------------------------------

_DEVICE = ConfigOption(
    "--device",
    "training.device",
    "DEVICE",
    help="Where to compute: auto (the GPU when there is one), cpu, cuda, cuda:1, or mps.",
)


@with_settings(_DEVICE, CHANNEL, AXES, VOXEL_SIZE)
def predict(
    model: Model,
    inputs: Inputs,
    output: Output,
    file_format: FileFormat = "auto",
    probabilities: Probabilities = False,
    resample: Resample = False,
    threshold: Threshold = None,
    method: Method = None,
    smoothing: Smoothing = None,
    seed_distance: SeedDistance = None,
    seed_level: SeedLevel = None,
    min_size: MinSize = None,
    blocks: Blocks = None,
    dask: Dask = None,
    json: Json = False,
    *,
    overrides: Overrides,
) -> None:
    """Segment new volumes by a trained model, exactly as its validation volumes were.

    Volumes may be larger than the memory. Interrupted, the same command goes on where it stopped.
    """
    display = make_display(json)
    given = {
        "method": method,
        "smoothing_um": smoothing,
        "seed_distance_um": seed_distance,
        "seed_level": seed_level,
        "min_size_um3": min_size,
    }
    with refusals_told(display):
        settings = override(RunConfig(), overrides)
        share = None if blocks is None else _share(blocks)
        decoding = _decoding(model, {key: value for key, value in given.items() if value is not None})
    from napari_celltrain.predict import volumes

    events = volumes.predict(
        model,
        inputs,
        output,
        device=settings.training.device,
        probabilities=probabilities,
        axes=settings.data.axes,
        channel=settings.data.channel,
        voxel_size=settings.data.voxel_size,
        resample=resample,
        threshold=threshold,
        decoding=decoding,
        file_format=file_format,
        blocks=share,
        dask=dask,
    )
    saved: list[Saved] = []
    follow(_noted(events, saved), display)
    if saved and is_main_process() and not display.for_programs:
        console().print(text(f"The results are in {output.absolute()}"), soft_wrap=True)


def _noted(events: Iterator[Event], saved: list[Saved]) -> Iterator[Event]:
    """A share of the blocks may end without any result."""
    try:
        for event in events:
            if isinstance(event, Saved):
                saved.append(event)
            yield event
    finally:
        if isinstance(events, Generator):
            events.close()


def _share(given: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given)
    if found is None:
        raise ConfigError(
            f"--blocks {given} is no share. Give I/N, with I from 1 to N, such as 1/8 for the first of 8."
        )
    return int(found[1]), int(found[2])


def _decoding(model: Path, given: dict[str, object]) -> ObjectDecoding | None:
    """The model's own decoding with what was ``given``; None where nothing was."""
    if not given:
        return None
    from pydantic import ValidationError

    from napari_celltrain.runs.model import read_card
    from napari_celltrain.values.decoding import ObjectDecoding

    try:
        return ObjectDecoding.model_validate(read_card(model).decoding.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).removesuffix("_um3").removesuffix("_um").replace("_", "-")
        raise ConfigError(f"--{option}: {first['msg']}.") from None
