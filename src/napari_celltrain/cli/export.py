"""What ``celltrain export`` can be told.

``celltrain export``: give a trained model away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.follow import follow, refusals_told
from napari_celltrain.cli.terminal import console, is_main_process, text
from napari_celltrain.cli.train import Json
from napari_celltrain.share.metadata import Metadata, parse_citation, parse_person

_CARD = "Card of a bioimage.io package"

Model = Annotated[
    Path,
    typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, a model in one, or a model.", show_default=False),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write: .zip for bioimageio, .pt for torchscript, .onnx for onnx.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["bioimageio", "torchscript", "onnx"],
    typer.Option(
        "--format",
        help="bioimageio: a package with card, example and weights, which CellTrain also reads back; torchscript "
        "and onnx: the network alone.",
    ),
]
Sample = Annotated[
    Path | None,
    typer.Option(
        metavar="IMAGE",
        help="Image whose middle is the package's test image. Without it one is made up, so that no data are given "
        "away unasked.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file of that name.")]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What is segmented in which images, 5 to 128 characters. Default: network and run.",
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
Description = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What it does.", rich_help_panel=_CARD, show_default=False),
]
Author = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PERSON",
        help='"Name; affiliation=…; orcid=…; github=…; email=…", all but the name optional. May be repeated.',
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
License = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Licence by its SPDX identifier, such as CC-BY-4.0 or MIT.",
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
Cite = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Reference with its DOI or address in it. May be repeated. Default: the network's paper.",
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What the training images show: tissue, stain, microscope.",
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
Limits = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Where it is known to fail.", rich_help_panel=_CARD, show_default=False),
]
Tag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD",
        help="Further word to be found by. May be repeated.",
        rich_help_panel=_CARD,
        show_default=False,
    ),
]
Halo = Annotated[
    bool,
    typer.Option(
        "--halo",
        help="Declare that an eighth of each window is to be cut off, for programs that put large volumes together "
        "from windows.",
        rich_help_panel=_CARD,
    ),
]


# --- export ----------------------------------------------------------------------------------------------


def export(
    model: Model,
    output: Output,
    format: Format = "bioimageio",
    sample: Sample = None,
    force: Force = False,
    name: Name = None,
    description: Description = None,
    author: Author = None,
    license: License = None,
    cite: Cite = None,
    data: Data = None,
    limits: Limits = None,
    tag: Tag = None,
    halo: Halo = False,
    json: Json = False,
) -> None:
    """Write a trained model as a file that other programs open, after checking that it computes the same."""
    from napari_celltrain.share import export as sharing

    display = make_display(json)
    with refusals_told(display):
        metadata = Metadata(
            name=name,
            description=description,
            authors=tuple(parse_person(person) for person in author or ()),
            license=license,
            cite=tuple(parse_citation(reference) for reference in cite or ()),
            data=data,
            limits=limits,
            tags=tuple(tag or ()),
            halo=halo,
        )
    follow(sharing.export(model, format, output, metadata, sample=sample, replace=force), display)
    if is_main_process() and not display.for_programs:
        console().print(text(f"The model is in {output.absolute()}"), soft_wrap=True)
