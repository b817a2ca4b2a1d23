"""``celltrain predict`` and ``export``: apply a trained model to new volumes, and give it away."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from napari_celltrain.cli.follow import follow, make_display, refusals_shown
from napari_celltrain.cli.options import (
    AXES,
    CHANNEL,
    VOXEL_SIZE,
    FieldOption,
    Json,
    Overrides,
    argument,
    option,
    with_options,
)
from napari_celltrain.cli.terminal import is_main_process, say
from napari_celltrain.runs.config_file import override
from napari_celltrain.share.metadata import Metadata, parse_citation, parse_person
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import ConfigError, Problem
from napari_celltrain.values.events import Event, Saved

_OBJECTS = "Objects (by default as tuned when the model was trained)"
_LARGE = "Large volumes"
_CARD = "Card of a bioimage.io package"

Model = Annotated[Path, argument(metavar="RUN_OR_MODEL", help="A run folder, a model in one, or a model.")]
_DEVICE = FieldOption(
    "--device",
    "training.device",
    "DEVICE",
    help="Where to compute: auto (the GPU when there is one), cpu, cuda, cuda:1, or mps.",
)
_of_objects = partial(FieldOption, model=ObjectDecoding, panel=_OBJECTS)
DECODING = (
    _of_objects("--method", "method", "METHOD"),
    _of_objects("--smoothing", "smoothing_um", "UM"),
    _of_objects("--seed-distance", "seed_distance_um", "UM"),
    _of_objects("--seed-level", "seed_level", "LEVEL"),
    _of_objects("--min-size", "min_size_um3", "UM3"),
)
_of_card = partial(FieldOption, model=Metadata, panel=_CARD)
METADATA = (
    _of_card("--name", "name", "TEXT"),
    _of_card("--description", "description", "TEXT"),
    _of_card("--author", "authors", "PERSON"),
    _of_card("--license", "license", "ID"),
    _of_card("--cite", "cite", "TEXT"),
    _of_card("--data", "data", "TEXT"),
    _of_card("--limits", "limits", "TEXT"),
    _of_card("--tag", "tags", "WORD"),
    _of_card("--halo", "halo"),
)


Inputs = Annotated[list[Path], argument(metavar="INPUT...", help="Volumes, or folders with all their subfolders.")]
ResultsFolder = Annotated[
    Path,
    option(
        "--output",
        "-o",
        metavar="DIR",
        help="Folder for the results, NAME.tif or NAME.ome.zarr for each volume; earlier ones of the same name are "
        "replaced.",
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
    float | None, option(metavar="P", help="Probability from which a voxel is foreground.", rich_help_panel=_OBJECTS)
]
Blocks = Annotated[
    str | None,
    option(
        metavar="I/N",
        help="Compute only share I of N of the blocks: for N tasks of a cluster, which all get the same command. "
        "The last one makes the result.",
        rich_help_panel=_LARGE,
    ),
]
Dask = Annotated[
    str | None,
    option(
        metavar="ADDRESS",
        help="Have the blocks computed by the workers of a dask cluster, such as tcp://host:8786.",
        rich_help_panel=_LARGE,
    ),
]


@with_options(_DEVICE, CHANNEL, AXES, VOXEL_SIZE, decoding=DECODING)
def predict(
    model: Model,
    inputs: Inputs,
    output: ResultsFolder,
    file_format: FileFormat = "auto",
    probabilities: Probabilities = False,
    resample: Resample = False,
    threshold: Threshold = None,
    blocks: Blocks = None,
    dask: Dask = None,
    json: Json = False,
    *,
    overrides: Overrides,
    decoding: dict[str, Any],
) -> None:
    """Segment new volumes by a trained model, exactly as its validation volumes were.

    Volumes may be larger than the memory. Interrupted, the same command goes on where it stopped.
    """
    from napari_celltrain.predict import volumes

    display = make_display(json)
    with refusals_shown(display):
        settings = override(RunConfig(), overrides)
        share = None
        if blocks is not None:
            found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", blocks)
            if found is None:
                raise volumes.no_share(blocks)
            share = int(found[1]), int(found[2])
        changed = _decoding(model, decoding)
    events = volumes.predict(
        model,
        inputs,
        output,
        device=settings.training.device,
        probabilities=probabilities,
        axes=settings.data.axes,
        channel=settings.data.channel,
        voxel_size=settings.data.voxel_size,
        threads=settings.training.threads,
        resample=resample,
        threshold=threshold,
        decoding=changed,
        file_format=file_format,
        blocks=share,
        dask=dask,
    )
    saved: list[Saved] = []
    follow(_noted(events, saved), display)
    if saved and is_main_process() and not display.for_programs:
        say(f"The results are in {output.absolute()}")


def _noted(events: Generator[Event, None, None], saved: list[Saved]) -> Iterator[Event]:
    """A share of the blocks may end without any result."""
    with closing(events):
        for event in events:
            if isinstance(event, Saved):
                saved.append(event)
            yield event


def _decoding(model: Path, given: dict[str, Any]) -> ObjectDecoding | None:
    """The model's own decoding with the ``given`` values; None where there are none."""
    if not given:
        return None
    from napari_celltrain.runs.model import read_card

    try:
        return ObjectDecoding.model_validate(read_card(model).decoding.model_dump() | given)
    except ValidationError as error:
        flags = {option.path: option.flag for option in DECODING}
        problems = [Problem("bad-option", flags[str(found["loc"][0])], f"{found['msg']}.") for found in error.errors()]
        raise ConfigError(*problems, heading="Some options cannot be used:") from None


@with_options(metadata=METADATA)
def export(
    model: Model,
    output: Annotated[
        Path,
        option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write: .zip for bioimageio, .pt for torchscript, .onnx for onnx.",
        ),
    ],
    format: Annotated[
        Literal["bioimageio", "torchscript", "onnx"],
        typer.Option(
            "--format",
            help="bioimageio: a package with card, example and weights, which CellTrain also reads back; torchscript "
            "and onnx: the network alone.",
        ),
    ] = "bioimageio",
    sample: Annotated[
        Path | None,
        option(
            metavar="IMAGE",
            help="Image whose middle is the package's test image. Without it one is made up, so that no data are given "
            "away unasked.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
    json: Json = False,
    *,
    metadata: dict[str, Any],
) -> None:
    """Write a trained model as a file that other programs open, after checking that it computes the same."""
    from napari_celltrain.share import export as sharing

    display = make_display(json)
    with refusals_shown(display):
        metadata |= {"authors": [parse_person(text) for text in metadata.get("authors", ())]}
        metadata |= {"cite": [parse_citation(text) for text in metadata.get("cite", ())]}
        card = Metadata(**metadata)
    follow(sharing.export(model, format, output, card, sample=sample, replace=force), display)
    if is_main_process() and not display.for_programs:
        say(f"The model is in {output.absolute()}")
