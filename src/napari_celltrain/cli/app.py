"""The commands and their help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from napari_celltrain import __version__
from napari_celltrain.cli.check import check
from napari_celltrain.cli.config import config
from napari_celltrain.cli.demo import demo
from napari_celltrain.cli.evaluate import evaluate
from napari_celltrain.cli.exit_codes import MEANINGS
from napari_celltrain.cli.export import export
from napari_celltrain.cli.lists import list_choices
from napari_celltrain.cli.measure import measure
from napari_celltrain.cli.predict import predict
from napari_celltrain.cli.train import resume, train
from napari_celltrain.cli.watch import stop, watch

app = typer.Typer(
    name="celltrain",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + ".",
)

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Training": (train, resume, demo),
    "Runs": (watch, stop, predict, export),
    "Results": (evaluate, measure),
    "Before training": (check, config),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.command("list", rich_help_panel="Before training")(list_choices)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def celltrain(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train 3D cell segmentation networks, watch them learn, and use them."""
