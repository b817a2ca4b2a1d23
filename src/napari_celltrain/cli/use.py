"""``celltrain predict`` and ``export``: apply a trained model to new volumes, and give it away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from napari_celltrain.cli.follow import follow, make_display, refusals_shown
from napari_celltrain.cli.options import FieldOption, Json, Overrides, argument, option, output_to, with_options
from napari_celltrain.cli.terminal import say
from napari_celltrain.runs.config_file import override
from napari_celltrain.share.metadata import Metadata
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import ConfigError, Problem
from napari_celltrain.values.events import Saved

Model = Annotated[Path, argument(metavar="RUN_OR_MODEL", help="A run folder, a model in one, or a model.")]
_DEVICE = FieldOption(
    "training.device", help="Where to compute: auto (the GPU when there is one), cpu, cuda, cuda:1, or mps."
)
_OBJECTS = "Objects (by default as tuned when the model was trained)"
_of_objects = partial(FieldOption, model=ObjectDecoding, panel=_OBJECTS)
DECODING = (
    _of_objects("method", "METHOD"),
    _of_objects("smoothing_um", "UM", "smoothing"),
    _of_objects("seed_distance_um", "UM", "seed_distance"),
    _of_objects("seed_level", "LEVEL"),
    _of_objects("min_size_um3", "UM3", "min_size"),
)
_of_card = partial(FieldOption, model=Metadata, panel="Card of a bioimage.io package")
METADATA = (
    _of_card("name", "TEXT"),
    _of_card("description", "TEXT"),
    _of_card("authors", "PERSON", "author"),
    _of_card("license", "ID"),
    _of_card("cite", "TEXT"),
    _of_card("data", "TEXT"),
    _of_card("limits", "TEXT"),
    _of_card("tags", "WORD", "tag"),
    _of_card("halo"),
)

Inputs = Annotated[list[Path], argument(metavar="INPUT...", help="Volumes, or folders with all their subfolders.")]
ResultsFolder = Annotated[
    Path,
    output_to(
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
_RESAMPLE = "Show the network the image at the voxel size that it was trained on; the labels are brought back."
Resample = Annotated[bool, typer.Option("--resample", help=_RESAMPLE)]
Threshold = Annotated[
    float | None, option(metavar="P", help="Probability from which a voxel is foreground.", rich_help_panel=_OBJECTS)
]
_of_large = partial(option, rich_help_panel="Large volumes")
Blocks = Annotated[
    str | None,
    _of_large(
        metavar="I/N",
        help="Compute only share I of N of the blocks: for N tasks of a cluster, which all get the same command. "
        "The last one makes the result.",
    ),
]
_DASK = "Have the blocks computed by the workers of a dask cluster, such as tcp://host:8786."
Dask = Annotated[str | None, _of_large(metavar="ADDRESS", help=_DASK)]


@with_options(_DEVICE, "data.channel", "data.axes", "data.voxel_size", decoding=DECODING)
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
        changed = _decoding(model, decoding)
    events = volumes.predict(
        model,
        inputs,
        output,
        **settings.training.model_dump(include={"device", "threads"}),
        **settings.data.model_dump(include={"axes", "channel", "voxel_size"}),
        probabilities=probabilities,
        resample=resample,
        threshold=threshold,
        decoding=changed,
        file_format=file_format,
        blocks=blocks,
        dask=dask,
    )
    last, _ = follow(events, display)
    if Saved in last and display.reader == "people":  # a share of the blocks may end without any result
        say(f"The results are in {output.absolute()}")


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
        Path, output_to(metavar="FILE", help="File to write: .zip for bioimageio, .pt for torchscript, .onnx for onnx.")
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
        card = Metadata(**metadata)
    follow(sharing.export(model, format, output, card, sample=sample, replace=force), display)
    if display.reader == "people":
        say(f"The model is in {output.absolute()}")
