"""What can be done with a run that has ended.

``celltrain train`` and ``celltrain resume``.

``celltrain watch`` and ``celltrain stop``: runs that another process trains.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from napari_celltrain.cli.display import Display, make_display
from napari_celltrain.cli.follow import follow, refusals_told
from napari_celltrain.cli.options import TRAINING_OPTIONS, Overrides, read_settings, with_settings
from napari_celltrain.cli.terminal import console, is_main_process, text
from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Finished


def print_steps(steps: Mapping[str, str]) -> None:
    """A line for each: its title, then what to open or to type."""
    output = console()
    for title, content in steps.items():
        output.print(Text(f"  {title + ':':<20}", style="bold") + text(content), soft_wrap=True)


def predict_line(folder: RunFolder, volumes: str, output: str) -> str:
    """The command that segments ``volumes`` by the model of ``folder``, quoted for a shell."""
    return shlex.join(["celltrain", "predict", str(folder.path), volumes, "--output", output])


# --- train -----------------------------------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Print events for programs, one JSON object a line.")]


@with_settings(*TRAINING_OPTIONS)
def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="Configuration as `celltrain config` writes it, a run folder to repeat, or - for standard input. "
            "The options below override it.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    *,
    overrides: Overrides,
) -> None:
    """Train a network on 3D volumes and their labels.

    Ctrl-C once: stop after the next validation. Twice: now, with a validation. The run folder stays complete.
    """
    if config is not None and str(config) == "-":
        _load_ahead()
    display = make_display(json)
    with refusals_told(display):
        settings = read_settings(config, overrides)
    from napari_celltrain.runs import session

    results = settings.data.results
    finished, folder = follow(session.run(settings), display, lambda started: RunFolder(results / started.run))
    _say_next(finished, folder, display)


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder to continue.", show_default=False)],
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train up to this epoch instead.", show_default=False)
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="F", min=0.01, help="End after this many more minutes, with a validation.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Continue a run that was stopped or killed, exactly as if it had never ended.

    Another number of epochs, or too few minutes for them, plans the learning rate anew.
    """
    display = make_display(json)
    with refusals_told(display):
        folder = RunFolder.open(run.expanduser().absolute())
    from napari_celltrain.runs import session

    events = session.resume(folder.path, epochs=epochs, max_minutes=max_minutes)
    finished, _ = follow(events, display, lambda _: folder)
    _say_next(finished, folder, display)


def _load_ahead() -> None:
    """Whoever sends the configuration later (a window) does not want to wait for this then."""
    # imported only to be there already
    import monai.networks.nets  # noqa: F401 - see above
    import torch  # noqa: F401 - see above


def _say_next(finished: Finished | None, folder: RunFolder | None, display: Display) -> None:
    if folder is None or not is_main_process() or display.for_programs:
        return
    if finished is None:
        console().print(text(f"The run is in {folder.path}"), soft_wrap=True)
        return
    console().print()
    print_steps(
        {
            "Everything is in": str(folder.path),
            "Look at the curves": str(folder.path / "training_final.png"),
            "Segment volumes": predict_line(folder, "NEW_VOLUMES", "DIR"),
        }
    )


# --- watch -----------------------------------------------------------------------------------------------

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
