"""A run from its first check to its last file: ``run``, ``resume``, and what they share.

Both are generators of events. What a user got wrong is raised as a :class:`CellTrainError` before a folder is made;
once there is a folder, everything that happens is in it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_celltrain.runs.checkpoint import Checkpoint, FolderKeeper, read_last
from napari_celltrain.runs.config_file import check_settings
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.job import Job, model_card, set_up
from napari_celltrain.runs.prepare import Preparation, prepare
from napari_celltrain.runs.record import Recorder, describe_environment
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, ConfigError, RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started, Warned

if TYPE_CHECKING:
    import torch

    from napari_celltrain.engine.device import Ranks

R = TypeVar("R")


def run(config: RunConfig) -> Iterator[Event]:
    """Train as ``config`` says, in a new folder in its results folder.

    Under ``torchrun`` all processes call this; the first one writes, all of them yield events.
    """
    started_at = time.perf_counter()
    config = check_settings(config)
    RunFolder.refuse_existing(config.data.results, config.run_name)
    with _processes(config) as (device, ranks):
        pending: list[Event] = []
        preparation = yield from _collect(prepare(config), pending)
        job = yield from _collect(set_up(preparation, device, ranks, started_at), pending)
        folder = _new_folder(preparation, ranks, job)
        yield from _in_folder(folder, job, pending)


def resume(path: Path, *, epochs: int | None = None, max_minutes: float | None = None) -> Iterator[Event]:
    """Continue the run in ``path`` from its last saved state, as if it had never stopped.

    ``epochs`` sets a new end; ``max_minutes`` limits this sitting, and replaces the limit of the run's configuration.
    """
    started_at = time.perf_counter()
    folder = RunFolder.open(path)
    config = _extended(folder.read_config(), epochs, max_minutes)
    checkpoint = read_last(folder)
    _refuse_if_over(folder, config, checkpoint)
    config = check_settings(config)
    with _processes(config) as (device, ranks):
        pending: list[Event] = []
        preparation = yield from _collect(prepare(config), pending)
        job = yield from _collect(
            set_up(preparation, device, ranks, started_at, checkpoint, new_end=epochs is not None), pending
        )
        for event in _changed_data(folder, preparation):
            pending.append(event)
            yield event
        yield from _in_folder(folder if ranks.is_first else None, job, pending, resumed=True)


# --- before the folder ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _processes(config: RunConfig) -> Iterator[tuple[torch.device, Ranks]]:
    from napari_celltrain.engine.device import joined, resolve_device, set_deterministic, set_threads

    device = resolve_device(config.training.device)
    if device.type == "cpu" and config.training.precision == "float16":
        raise ConfigError("training.precision: float16 is slow and unsafe on a processor. Take auto or float32.")
    set_threads(config.training.threads)
    set_deterministic(config.training.deterministic)
    with joined(device) as ranks:
        yield device, ranks


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


def _new_folder(preparation: Preparation, ranks: Ranks, job: Job) -> RunFolder | None:
    """The run's new folder, in the first process; the others wait until it is there, or learn why it is not."""
    folder: RunFolder | None = None
    refusal: Exception | None = None
    if ranks.is_first:
        try:
            folder = _make_folder(preparation, job, ranks.world)
        except Exception as error:  # the other processes are waiting for an answer, whatever it is
            refusal = error
    refused = ranks.broadcast(None if refusal is None else str(refusal))
    if refusal is not None:
        raise refusal
    if refused is not None:
        raise RunFolderError(refused)
    return folder


def _make_folder(preparation: Preparation, job: Job, num_processes: int) -> RunFolder:
    config = preparation.config
    folder = RunFolder.create(config.data.results, config.run_name, config.training.model)
    try:
        folder.write_config(config)
        folder.write_text("data.json", preparation.record)
        folder.write_text("environment.json", describe_environment(job.device_name, num_processes))
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)  # a folder that cannot be begun would only be in the way
        raise
    return folder


# --- resuming -------------------------------------------------------------------------------------------


def _extended(config: RunConfig, epochs: int | None, max_minutes: float | None) -> RunConfig:
    changes = {key: value for key, value in (("epochs", epochs), ("max_minutes", max_minutes)) if value is not None}
    if not changes:
        return config
    training = type(config.training).model_validate(config.training.model_dump() | changes)
    return config.model_copy(update={"training": training})


def _refuse_if_over(folder: RunFolder, config: RunConfig, checkpoint: Checkpoint) -> None:
    done = checkpoint.progress.epoch - 1
    is_over = done >= config.training.epochs
    if is_over and any(isinstance(event, Finished) for event in folder.read_events()):
        raise RunFolderError(
            f"The run {folder.name} has done {done} epoch{'s' if done != 1 else ''} already. To train it further, give "
            f"more: celltrain resume {folder.path} --epochs {2 * done}"
        )


def _changed_data(folder: RunFolder, preparation: Preparation) -> list[Event]:
    try:
        before = folder.data_file.read_text(encoding="utf-8")
    except OSError:
        return []
    if before == preparation.record:
        return []
    return [
        Warned(
            message="The images, labels or their division have changed since this run began; it goes on with the new "
            "ones. Scores before and after cannot be compared."
        )
    ]


# --- in the folder --------------------------------------------------------------------------------------


def _in_folder(folder: RunFolder | None, job: Job, pending: list[Event], resumed: bool = False) -> Iterator[Event]:
    """Train and deliver. Without a folder (not the first process), the same without writing."""
    if folder is None:
        yield from job.trainer.run()
        return
    with folder.lock():
        folder.clean()
        folder.clear_requests()
        if resumed:
            folder.write_config(job.config)
            folder.write_text("data.json", job.preparation.record)
        recorder = Recorder(folder)
        job.trainer.keeper = _keeper(folder, job)
        for event in pending:
            recorder.record(event)
        try:
            yield from _recorded(recorder, _train_and_deliver(folder, job))
        except Exception as error:
            with contextlib.suppress(CellTrainError):  # the disk may be the very thing that failed
                recorder.record(Failed(message=_sentence(error)))
            raise


def _recorded(recorder: Recorder, events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield recorder.record(event)
        yield from recorder.own_events()


def _train_and_deliver(folder: RunFolder, job: Job) -> Iterator[Event]:
    from napari_celltrain.runs.finalize import deliver

    trainer = job.trainer
    yield _started(folder, job)
    if not trainer.is_over:
        yield from trainer.run()
    yield from deliver(folder, job)


def _started(folder: RunFolder, job: Job) -> Started:
    config, trainer = job.config, job.trainer
    return Started(
        run=folder.name,
        first_epoch=trainer.progress.epoch,
        epochs=config.training.epochs,
        steps_per_epoch=trainer.steps_per_epoch,
        num_training=len(trainer.source.volumes),
        num_validation=len(trainer.validator.volumes),
        num_parameters=job.num_parameters,
        model=config.training.model,
        loss=config.training.loss,
        patch_size=config.augmentation.patch_size if config.augmentation.patches else None,
        batch_size=config.training.batch_size,
        device=job.device_name,
        numeric_format=str(job.numeric_format),
    )


def _keeper(folder: RunFolder, job: Job) -> FolderKeeper:
    return FolderKeeper(
        folder,
        numeric_format=job.numeric_format,
        card=lambda: model_card(job, folder.name),
        preview_voxel_size=job.preparation.preview_voxel_size,
    )


def _sentence(error: Exception) -> str:
    if isinstance(error, CellTrainError):
        return str(error)
    return f"An unexpected error ended the run ({type(error).__name__}: {error}). What was saved before is intact."
