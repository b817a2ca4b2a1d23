"""``celltrain list``: the choices, as their registries tell them."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

from napari_celltrain.cli.terminal import console, text
from napari_celltrain.registry import Registry


class Kind(StrEnum):
    MODELS = "models"
    LOSSES = "losses"
    AUGMENTATIONS = "augmentations"


def list_choices(
    kind: Annotated[
        Kind | None, typer.Argument(help="What to list; everything, where left out.", show_default=False)
    ] = None,
) -> None:
    """List the models, losses or augmentations that can be chosen, those of other packages included."""
    for each in [kind] if kind is not None else list(Kind):
        _print(each)


def _print(kind: Kind) -> None:
    from rich import box
    from rich.table import Table

    registry: Registry[Any] = getattr(import_module(f"napari_celltrain.parts.{kind}"), kind.upper())
    table = Table(title=kind.capitalize(), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("Key", style="bold cyan", no_wrap=True)
    table.add_column("Name", no_wrap=True)
    table.add_column("What it is")
    for entry in registry:
        table.add_row(text(entry.key), text(entry.label), text(entry.help))
    console().print(table)
