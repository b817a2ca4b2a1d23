"""The commands and their help, and the entry point: it runs one, and turns exceptions into messages and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from napari_celltrain import __version__
from napari_celltrain.cli.evaluate import evaluate, measure
from napari_celltrain.cli.prepare import check, config, list_choices
from napari_celltrain.cli.terminal import ExitCode, exit_code_of, mistake, report
from napari_celltrain.cli.train import demo, resume, stop, train, watch
from napari_celltrain.cli.use import export, predict
from napari_celltrain.values.errors import CellTrainError

app = typer.Typer(
    name="celltrain",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in ExitCode) + ".",
)

for _panel, _commands in {
    "Training": (train, resume, demo),
    "Runs": (watch, stop, predict, export),
    "Results": (evaluate, measure),
    "Before training": (check, config),
}.items():
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


def main() -> None:
    """Run the command of ``sys.argv`` and leave with its exit code."""
    # Only counts before torch is loaded: libgomp's threads would spin while they wait, and starve each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="celltrain")
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        shown = error if isinstance(error, CellTrainError) else mistake(error)
        report("Error", str(shown))
        sys.exit(exit_code_of(shown))
