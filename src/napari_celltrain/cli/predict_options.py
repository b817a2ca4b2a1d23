"""What ``celltrain predict`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
