"""``celltrain train``, ``resume`` and ``demo``, which train; ``watch`` and ``stop``, for runs of other processes."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from napari_celltrain.cli.follow import Display, follow, make_display, refusals_shown
from napari_celltrain.cli.options import TRAIN_OPTIONS, Json, Overrides, argument, option, read_settings, with_options
from napari_celltrain.cli.terminal import console, say, text
from napari_celltrain.runs import process
from napari_celltrain.runs.config_file import absolute_paths, check_settings
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Finished
from napari_celltrain.values.text import scores

# On two processor cores either demo takes about two minutes; a slower computer ends then too.
NUM_EPOCHS = 7
REAL_NUM_EPOCHS = 12
REAL_AUGMENTATION = AugmentationConfig(samples_per_volume=48)  # there is only one volume to take patches from
MAX_MINUTES = 2.0

GOOD = 0.5
"""Below such a Dice or F1 the closing sentence does not call it a success."""

Run = Annotated[Path, argument(help="The run folder.")]


@with_options(*TRAIN_OPTIONS)
def train(
    config: Annotated[
        Path | None,
        argument(
            help="Configuration as `celltrain config` writes it, a run folder to repeat, or - for standard input. "
            "The options below override it."
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
    with refusals_shown(display):
        settings = check_settings(read_settings(config, overrides))
        RunFolder.refuse_existing(settings.data.results, settings.run_name)  # before torch is loaded
    from napari_celltrain.runs import session

    last, folder = follow(session.run(settings), display, settings.data.results)
    _say_next(last.get(Finished), folder, display)


@with_options()
def resume(
    run: Run,
    epochs: Annotated[int | None, option(metavar="N", min=1, help="Train up to this epoch instead.")] = None,
    max_minutes: Annotated[
        float | None, option(metavar="F", min=0.01, help="End after this many more minutes, with a validation.")
    ] = None,
    json: Json = False,
) -> None:
    """Continue a run that was stopped or killed, exactly as if it had never ended.

    Another number of epochs, or too few minutes for them, plans the learning rate again.
    """
    display = make_display(json)
    with refusals_shown(display):
        folder = RunFolder.open(run.expanduser().absolute())
        folder.refuse_running()
    from napari_celltrain.runs import session

    events = session.resume(folder.path, epochs=epochs, max_minutes=max_minutes)
    last, _ = follow(events, display, folder.path.parent)
    _say_next(last.get(Finished), folder, display)


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
    say(f"{folder.name} will stop after {when}.")


@with_options()
def demo(
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            # Square brackets are markup unless escaped.
            help='Use a real stack of nuclei. It is an extra: pip install -c constraints.txt ".\\[all,real]"',
        ),
    ] = False,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the sample volumes and the run.")] = Path(
        "celltrain-demo"
    ),
    epochs: Annotated[
        int | None,
        option(
            metavar="N",
            min=1,
            help="How often to go through the data, however long that takes. Left out: as often as fits "
            f"{MAX_MINUTES:g} minutes, at most {NUM_EPOCHS} times, with --real {REAL_NUM_EPOCHS}.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Start of all random numbers.")] = 0,
) -> None:
    """Train on sample volumes for a minute or two, and say how well it went and what to do next."""
    from napari_celltrain import samples
    from napari_celltrain.runs import session
    from napari_celltrain.values import files

    sample = results / ("real-sample" if real else "sample")
    with files.writing(sample):
        images, labels = (samples.write_real if real else samples.write_demo)(sample)
    training = TrainingConfig(
        epochs=epochs or (REAL_NUM_EPOCHS if real else NUM_EPOCHS),
        max_minutes=MAX_MINUTES if epochs is None else None,
        seed=seed,
    )
    data = DataConfig(images=images, labels=labels, results=results)
    augmentation = REAL_AUGMENTATION if real else AugmentationConfig()
    config = absolute_paths(RunConfig(data=data, augmentation=augmentation, training=training))
    last, folder = follow(session.run(config), make_display(False), config.data.results)
    if Finished in last and folder is not None:
        _end_demo(last[Finished], folder, images)


def verdict(finished: Finished) -> tuple[str, bool]:
    """How well it went, in a sentence, and whether that is well."""
    dice, f1 = finished.best_dice, finished.best_f1
    if dice < GOOD:
        return f"The model has not learned yet where the nuclei are ({scores(dice, f1)}): it needs more epochs.", False
    if f1 is not None and f1 < GOOD:
        apart = f"but not yet each one apart (F1 {f1:.4f}): touching nuclei count as one, and specks as nuclei."
        return f"The model found where the nuclei are (Dice {dice:.4f}) {apart}", False
    return f"The model found the nuclei with {scores(dice, f1)}.", True


def _end_demo(finished: Finished, folder: RunFolder, images: Path) -> None:
    sentence, well = verdict(finished)
    say(f"\n{sentence}", "bold green" if well else "bold")
    if finished.reason == "max-minutes":
        say(f"A demo ends after {MAX_MINUTES:g} minutes; --epochs N trains for as long as it takes.")
    _print_steps(
        folder,
        str(images.absolute()),
        str(folder.path.parent / "prediction"),
        ("Train on your own", "celltrain train --images IMAGES --labels LABELS --results RESULTS"),
        ("In a window", "napari, then Plugins ▸ CellTrain ▸ Train a segmentation model"),
    )


def _say_next(finished: Finished | None, folder: RunFolder | None, display: Display) -> None:
    if folder is None or display.reader != "people":
        return
    if finished is None:
        say(f"The run is in {folder.path}")
        return
    say("")
    _print_steps(folder, "NEW_VOLUMES", "DIR")


def _print_steps(folder: RunFolder, volumes: str, output: str, *more: tuple[str, str]) -> None:
    """What to open or to type next, a line for each; ``volumes`` are segmented into the folder ``output``."""
    steps = (
        ("Everything is in", str(folder.path)),
        ("Look at the curves", str(folder.path / "training_final.png")),
        ("Segment volumes", shlex.join(["celltrain", "predict", str(folder.path), volumes, "--output", output])),
    )
    for title, content in (*steps, *more):
        console().print(Text(f"  {title + ':':<20}", style="bold") + text(content), soft_wrap=True)


def _load_ahead() -> None:
    """A window that sends the configuration later does not want to wait for this then."""
    for name in ("torch", "monai.networks.nets"):
        importlib.import_module(name)
