"""``celltrain watch`` and ``celltrain stop``: runs that another process trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.terminal import console, text
from napari_celltrain.cli.train import Json
from napari_celltrain.errors import RunFolderError
from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder

Run = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]


def watch(run: Run, json: Json = False) -> None:
    """Show a run, finished or going on, here or on another computer, as if it had been started in this terminal.

    Ctrl-C ends the watching only.
    """
    with make_display(json) as display:
        for event in process.watch(RunFolder.open(run)):
            display.show(event)


def stop(
    run: Run,
    now: Annotated[
        bool, typer.Option("--now", help="Stop after the current batch instead of at the next validation.")
    ] = False,
) -> None:
    """Stop a run as the Stop button does: after its next validation. Its folder stays complete."""
    folder = RunFolder.open(run)
    if not folder.is_running():
        raise RunFolderError(f"Nothing is training in {folder.path}, so there is nothing to stop.")
    folder.request_stop(now)
    when = "the current batch, with a validation" if now else "the next validation"
    console().print(text(f"{folder.name} will stop after {when}."), soft_wrap=True)
