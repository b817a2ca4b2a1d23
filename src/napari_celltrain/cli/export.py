"""``celltrain export``: give a trained model away."""

from __future__ import annotations

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.export_options import (
    Author,
    Cite,
    Data,
    Description,
    Force,
    Format,
    Halo,
    License,
    Limits,
    Model,
    Name,
    Output,
    Sample,
    Tag,
)
from napari_celltrain.cli.follow import follow, refusals_told
from napari_celltrain.cli.terminal import console, is_main_process, text
from napari_celltrain.cli.train import Json
from napari_celltrain.runs.sharing.sheet import Sheet, parse_citation, parse_person


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
    from napari_celltrain.runs.sharing import export as sharing

    display = make_display(json)
    with refusals_told(display):
        sheet = Sheet(
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
    follow(sharing.export(model, format, output, sheet, sample=sample, replace=force), display)
    if is_main_process() and not display.for_programs:
        console().print(text(f"The model is in {output.absolute()}"), soft_wrap=True)
