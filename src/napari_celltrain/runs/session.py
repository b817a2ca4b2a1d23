"""A run from its first check to its last file: ``run``, ``resume``, and what they share.

Both are generators of events. What a user got wrong is raised as a :class:`CellTrainError` before a folder is made;
once there is a folder, everything that happens is in it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

from napari_celltrain.nets.models import num_parameters
from napari_celltrain.runs.checkpoint import Checkpoint, FolderCheckpointer, read_last
from napari_celltrain.runs.config_file import check_settings
from napari_celltrain.runs.finalize import finalize
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.record import Recorder, describe_environment
from napari_celltrain.runs.setup import Setup, set_up
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, ConfigError, RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started, Warned
from napari_celltrain.values.text import count

R = TypeVar("R")


def run(config: RunConfig) -> Iterator[Event]:
    """Train as ``config`` says, in a new folder in its results folder.

    Under ``torchrun`` all processes call this; the first one writes, all of them yield events.
    """
    started_at = time.perf_counter()
    config = check_settings(config)
    RunFolder.refuse_existing(config.data.results, config.run_name)
    yield from _run(config, started_at)


def resume(path: Path, *, epochs: int | None = None, max_minutes: float | None = None) -> Iterator[Event]:
    """Continue the run in ``path`` from its last saved state, as if it had never stopped.

    ``epochs`` sets a new end; ``max_minutes`` limits this sitting, and replaces the limit of the run's configuration.
    """
    started_at = time.perf_counter()
    folder = RunFolder.open(path)
    config = folder.read_config()
    changes = {key: value for key, value in (("epochs", epochs), ("max_minutes", max_minutes)) if value is not None}
    training = type(config.training).model_validate(config.training.model_dump() | changes)
    checkpoint = read_last(folder)
    done = checkpoint.progress.epoch - 1
    if done >= training.epochs and any(isinstance(event, Finished) for event in folder.read_events()):
        raise RunFolderError(
            f"The run {folder.name} has done {count(done, 'epoch')} already. To train it further, give "
            f"more: celltrain resume {folder.path} --epochs {2 * done}"
        )
    config = check_settings(config.model_copy(update={"training": training}))
    yield from _run(config, started_at, folder, checkpoint, new_end=epochs is not None)


def _run(
    config: RunConfig,
    started_at: float,
    old_folder: RunFolder | None = None,
    checkpoint: Checkpoint | None = None,
    new_end: bool = False,
) -> Iterator[Event]:
    from napari_celltrain.engine.device import joined, resolve_device, set_deterministic, set_threads

    device = resolve_device(config.training.device)
    if device.type == "cpu" and config.training.precision == "float16":
        raise ConfigError("training.precision: float16 is slow and unsafe on a processor. Take auto or float32.")
    set_threads(config.training.threads)
    set_deterministic(config.training.deterministic)
    with joined(device) as ranks:
        pending: list[Event] = []
        setup = yield from _collect(set_up(config, device, ranks, started_at, checkpoint, new_end), pending)
        if old_folder is None:
            yield from _train(_new_folder(setup), setup, pending)
            return
        with contextlib.suppress(OSError):
            if old_folder.data_file.read_text(encoding="utf-8") != setup.preparation.record:
                pending.append(
                    Warned(
                        message="The images, labels or their division have changed since this run began; it goes on "
                        "with the new ones. Scores before and after cannot be compared."
                    )
                )
                yield pending[-1]
        yield from _train(old_folder if ranks.is_first else None, setup, pending, is_resumed=True)


def _collect(events: Generator[Event, None, R], pending: list[Event]) -> Generator[Event, None, R]:
    """Pass events on, and remember them for the folder that is not there yet."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            result: R = end.value
            return result
        pending.append(event)
        yield event


def _new_folder(setup: Setup) -> RunFolder | None:
    """The run's new folder, in the first process; the others wait until it is there, or learn why it is not."""
    folder: RunFolder | None = None
    refusal: Exception | None = None
    ranks = setup.trainer.ranks
    if ranks.is_first:
        try:
            folder = _make_folder(setup)
        except Exception as error:  # the other processes are waiting for an answer, whatever it is
            refusal = error
    refused = ranks.broadcast(None if refusal is None else str(refusal))
    if refusal is not None:
        raise refusal
    if refused is not None:
        raise RunFolderError(refused)
    return folder


def _make_folder(setup: Setup) -> RunFolder:
    config = setup.preparation.config
    folder = RunFolder.create(config.data.results, config.run_name, config.training.model)
    try:
        folder.write_config(config)
        folder.write_text("data.json", setup.preparation.record)
        folder.write_text("environment.json", describe_environment(setup.device_name, setup.trainer.ranks.world))
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)  # a folder that cannot be begun would only be in the way
        raise
    return folder


# --- in the folder --------------------------------------------------------------------------------------


def _train(folder: RunFolder | None, setup: Setup, pending: list[Event], is_resumed: bool = False) -> Iterator[Event]:
    """Train and finalize. Without a folder (not the first process), train without writing."""
    checkpointer = FolderCheckpointer(
        folder,
        setup.trainer.learner.numeric_format,
        make_card=lambda: setup.card("" if folder is None else folder.name),
        preview_voxel_size=setup.preparation.validation[0].report.voxel_size,
    )
    training = setup.trainer.run(checkpointer)
    if folder is None:
        yield from training
        return
    with folder.lock():
        folder.clean()
        folder.clear_requests()
        if is_resumed:
            folder.write_config(setup.preparation.config)
            folder.write_text("data.json", setup.preparation.record)
        recorder = Recorder(folder)
        for event in pending:
            recorder.record(event)
        try:
            for event in chain([_started(folder, setup)], training, finalize(folder, setup)):
                yield recorder.record(event)
                yield from recorder.own_events()
        except Exception as error:
            message = str(error)
            if not isinstance(error, CellTrainError):
                message = f"An unexpected error ended the run ({type(error).__name__}: {error}). "
                message += "What was saved before is intact."
            with contextlib.suppress(CellTrainError):  # the disk may be the very thing that failed
                recorder.record(Failed(message=message))
            raise


def _started(folder: RunFolder, setup: Setup) -> Started:
    training, augmentation = setup.preparation.config.training, setup.preparation.config.augmentation
    trainer = setup.trainer
    return Started(
        run=folder.name,
        first_epoch=trainer.progress.epoch,
        epochs=training.epochs,
        steps_per_epoch=trainer.progress.steps_per_epoch,
        num_training=len(trainer.source.volumes),
        num_validation=len(trainer.validator.volumes),
        num_parameters=num_parameters(trainer.learner.network),
        model=training.model,
        loss=training.loss,
        patch_size=augmentation.patch_size if augmentation.patches else None,
        batch_size=training.batch_size,
        device=setup.device_name,
        numeric_format=str(trainer.learner.numeric_format),
    )
