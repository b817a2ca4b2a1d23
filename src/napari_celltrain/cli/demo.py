"""``celltrain demo``: the whole way, from volumes to a trained model, in a minute or two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_celltrain.cli.display import make_display
from napari_celltrain.cli.follow import follow
from napari_celltrain.cli.options import absolute
from napari_celltrain.cli.terminal import console, text
from napari_celltrain.cli.train import predict_line, print_steps
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.values.events import Finished
from napari_celltrain.values.text import scores

# On two processor cores either demo takes about two minutes; a slower computer ends then too.
NUM_EPOCHS = 7
REAL_NUM_EPOCHS = 12
REAL_AUGMENTATION = AugmentationConfig(samples_per_volume=48)  # there is only one volume to take patches from
MAX_MINUTES = 2.0

# Below these the closing sentence does not call it a success.
GOOD_DICE = 0.5
GOOD_F1 = 0.5


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
        typer.Option(
            metavar="N",
            min=1,
            help="How often to go through the data, however long that takes. Left out: as often as fits "
            f"{MAX_MINUTES:g} minutes, at most {NUM_EPOCHS} times, with --real {REAL_NUM_EPOCHS}.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Start of all random numbers.")] = 0,
) -> None:
    """Train on sample volumes for a minute or two, and say how well it went and what to do next."""
    from napari_celltrain import samples
    from napari_celltrain.runs import session
    from napari_celltrain.values import files

    sample = results / ("real-sample" if real else "sample")
    try:
        images, labels = (samples.write_real if real else samples.write_demo)(sample)
    except OSError as error:
        raise files.refusal(sample, error) from error
    training = TrainingConfig(
        epochs=epochs or (REAL_NUM_EPOCHS if real else NUM_EPOCHS),
        max_minutes=MAX_MINUTES if epochs is None else None,
        seed=seed,
    )
    config = absolute(
        RunConfig(
            data=DataConfig(images=images, labels=labels, results=results),
            augmentation=REAL_AUGMENTATION if real else AugmentationConfig(),
            training=training,
        )
    )
    runs = config.data.results
    finished, folder = follow(session.run(config), make_display(False), lambda started: RunFolder(runs / started.run))
    if finished is not None and folder is not None:
        _say_next(finished, folder, images)


def verdict(finished: Finished) -> tuple[str, bool]:
    """How well it went, in a sentence, and whether that is well."""
    dice, f1 = finished.best_dice, finished.best_f1
    if dice < GOOD_DICE:
        return f"The model has not learned yet where the nuclei are ({scores(dice, f1)}): it needs more epochs.", False
    if f1 is not None and f1 < GOOD_F1:
        apart = f"but not yet each one apart (F1 {f1:.4f}): touching nuclei count as one, and specks as nuclei."
        return f"The model found where the nuclei are (Dice {dice:.4f}) {apart}", False
    return f"The model found the nuclei with {scores(dice, f1)}.", True


def _say_next(finished: Finished, folder: RunFolder, images: Path) -> None:
    output = console()
    sentence, well = verdict(finished)
    output.print(text(f"\n{sentence}", "bold green" if well else "bold"), soft_wrap=True)
    if finished.reason == "max-minutes":
        output.print(text(f"A demo ends after {MAX_MINUTES:g} minutes; --epochs N trains for as long as it takes."))
    print_steps(
        {
            "Everything is in": str(folder.path),
            "Look at the curves": str(folder.path / "training_final.png"),
            "Segment volumes": predict_line(folder, str(images.absolute()), str(folder.path.parent / "prediction")),
            "Train on your own": "celltrain train --images IMAGES --labels LABELS --results RESULTS",
            "In a window": "napari, then Plugins ▸ CellTrain ▸ Train a segmentation model",
        }
    )
