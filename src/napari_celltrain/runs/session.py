"""A run from its first check to its last file: ``run``, ``resume``, what they share, and its end.

Both are generators of events. What a user got wrong is raised as a :class:`CellTrainError` before a folder is made;
once there is a folder, everything that happens is in it. At the end the best model predicts every validation volume,
the decoding of objects is tuned on them, and the scores are those of exactly the files that are written.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from functools import reduce
from itertools import chain
from operator import add
from pathlib import Path

import numpy as np

from napari_celltrain.engine.device import (
    describe,
    joined,
    peak_memory_gb,
    resolve_device,
    set_deterministic,
    set_threads,
)
from napari_celltrain.engine.objects import Maps
from napari_celltrain.engine.scores import Score
from napari_celltrain.engine.trainer import Trainer
from napari_celltrain.engine.validation import Setting, Tuner, Validator, num_candidates
from napari_celltrain.nets.models import num_parameters
from napari_celltrain.runs.checkpoint import Checkpoint, FolderCheckpointer, read_last
from napari_celltrain.runs.config_file import check_settings, dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import Model, card_to_yaml, load_model, segment, to_objects
from napari_celltrain.runs.prepare import Preparation, prepare, relayed
from napari_celltrain.runs.record import MAX_RECORD_BYTES, Recorder, describe_environment
from napari_celltrain.runs.setup import make_card, set_up
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import CellTrainError, ConfigError, RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Logged, Prepared, Saved, Started, Warned
from napari_celltrain.values.outside import read_text
from napari_celltrain.values.text import count


def run(config: RunConfig) -> Iterator[Event]:
    """Train as ``config`` says, in a new folder in its results folder.

    Under ``torchrun`` all processes call this; the first one writes, all of them yield events.
    """
    config = check_settings(config)
    RunFolder.refuse_existing(config.data.results, config.run_name)
    yield from _run(config)


def resume(path: Path, *, epochs: int | None = None, max_minutes: float | None = None) -> Iterator[Event]:
    """Continue the run in ``path`` from its last saved state, as if it had never stopped; where it was killed before
    its first validation, from its beginning.

    ``epochs`` sets a new end; ``max_minutes`` limits this sitting, and replaces the limit of the run's configuration.
    """
    folder = RunFolder.open(path)
    config = folder.read_config()
    changes = {key: value for key, value in (("epochs", epochs), ("max_minutes", max_minutes)) if value is not None}
    training = type(config.training).model_validate(config.training.model_dump() | changes)
    checkpoint = read_last(folder)
    done = 0 if checkpoint is None else checkpoint.progress.epoch - 1
    if done >= training.epochs and any(isinstance(event, Finished) for event in folder.read_events()):
        raise RunFolderError(
            f"The run {folder.name} has done {count(done, 'epoch')} already. To train it further, give "
            f"more: celltrain resume {folder.path} --epochs {2 * done}"
        )
    if epochs is not None and checkpoint is not None:
        checkpoint.progress.planned_steps = 0  # the learning rate is planned again
    yield from _run(check_settings(config.model_copy(update={"training": training})), folder, checkpoint)


def _run(
    config: RunConfig, old_folder: RunFolder | None = None, checkpoint: Checkpoint | None = None
) -> Iterator[Event]:
    started_at = time.perf_counter()
    device = resolve_device(config.training.device)
    if device.type == "cpu" and config.training.precision == "float16":
        raise ConfigError("training.precision: float16 is slow and unsafe on a processor. Take auto or float32.")
    set_threads(config.training.threads)
    set_deterministic(config.training.deterministic)
    pending: list[Event] = []  # for the folder that is not there yet

    def kept(event: Event) -> Event:
        pending.append(event)
        return event

    with joined(device) as ranks, contextlib.ExitStack() as held:
        folder = old_folder if ranks.is_first else None
        if folder is not None:
            held.enter_context(folder.lock())
        if old_folder is not None and checkpoint is None:
            yield kept(Logged(message="Nothing had been saved before this run ended, so it begins again."))
        preparation = yield from relayed(prepare(config), kept)
        trainer = yield from relayed(set_up(preparation, device, ranks, started_at, checkpoint), kept)
        if old_folder is None:
            folder = _new_folder(preparation, trainer)
            if folder is not None:
                held.enter_context(folder.lock())
        elif folder is not None:
            yield from map(kept, _describe_again(folder, preparation))
        yield from _train(folder, preparation, trainer, pending)


def _new_folder(preparation: Preparation, trainer: Trainer) -> RunFolder | None:
    """The run's new folder, in the first process; the others wait until it is there, or learn why it is not."""
    folder: RunFolder | None = None
    refusal: BaseException | None = None
    config, ranks = preparation.config, trainer.ranks
    if ranks.is_first:
        try:
            environment = describe_environment(describe(trainer.learner.device), ranks.world)
            contents = {
                "config.yaml": dump_config(config),
                "data.json": preparation.record,
                "environment.json": environment,
            }
            folder = RunFolder.create(config.data.results, config.run_name, config.training.model, contents)
        except BaseException as error:  # the other processes are waiting for an answer, whatever it is
            refusal = error
    refused = ranks.broadcast(None if refusal is None else str(refusal))
    if refused is not None:
        raise refusal or RunFolderError(refused)
    return folder


def _describe_again(folder: RunFolder, preparation: Preparation) -> Iterator[Event]:
    """Renew what says how a resumed run is made; its settings and its data may have changed."""
    with contextlib.suppress(CellTrainError):  # one that cannot be read is renewed
        if read_text(folder.data_file, limit=MAX_RECORD_BYTES) != preparation.record:
            message = "The images, labels or their division have changed since this run began; it goes on "
            message += "with the new ones. Scores before and after cannot be compared."
            yield Warned(message=message)
    folder.write_config(preparation.config)
    folder.write_text("data.json", preparation.record)


# --- in the folder --------------------------------------------------------------------------------------


def _train(
    folder: RunFolder | None, preparation: Preparation, trainer: Trainer, pending: list[Event]
) -> Iterator[Event]:
    """Train and finalize. Without a folder (not the first process), train without writing."""
    checkpointer = FolderCheckpointer(
        folder,
        trainer.learner.numeric_format,
        make_card=lambda: make_card(preparation, trainer, "" if folder is None else folder.name),
        preview_voxel_size=trainer.validator.volumes[0].voxel_size,
    )
    training = trainer.run(checkpointer)
    if folder is None:
        yield from training
        return
    recorder = Recorder(folder)
    for event in pending:
        recorder.record(event)
    try:
        started = _started(folder, preparation.config, trainer)
        for event in chain([started], training, finalize(folder, trainer)):
            yield from recorder.record(event)
    except Exception as error:
        message = str(error)
        if not isinstance(error, CellTrainError):
            message = f"An unexpected error ended the run ({type(error).__name__}: {error}). "
            message += "What was saved before is intact."
        with contextlib.suppress(CellTrainError):  # the disk may be the very thing that failed
            recorder.record(Failed(message=message))
        raise


def _started(folder: RunFolder, config: RunConfig, trainer: Trainer) -> Started:
    training, augmentation = config.training, config.augmentation
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
        device=describe(trainer.learner.device),
        numeric_format=str(trainer.learner.numeric_format),
    )


# --- the end of a run --------------------------------------------------------------------------------------------

MAX_KEPT_BYTES = 2**30
"""Maps kept from tuning until they are decoded; those of further volumes are predicted again."""


def finalize(folder: RunFolder, trainer: Trainer) -> Generator[Event, None, None]:
    """Write ``validation/`` and the final ``model.yaml``; ends with :class:`Finished`.

    The model is read back from its files, so that what is scored is what a user will load.
    """
    start = time.perf_counter()
    validator, progress = trainer.validator, trainer.progress
    model = load_model(folder.model, trainer.learner.device)
    is_objects = model.card.label_kind == "objects"
    maps: dict[int, Maps] = {}
    if is_objects:
        model, maps = yield from _tune(folder, model, validator)
    epoch = model.card.training.epoch
    scores: list[Score] = []
    for index, volume in enumerate(validator.volumes):
        yield Prepared(stage="writing the validation volumes", done=index, total=len(validator.volumes))
        if index in maps:
            result = to_objects(model.card, maps.pop(index), volume.voxel_size)
        else:
            result = segment(model, volume.image, volume.statistics, voxel_size=volume.voxel_size)
        folder.write_volume(f"validation/{volume.name}.tif", result.labels, volume.voxel_size)
        scores.append(validator.compare(index, result.classes, result.labels if is_objects else None))
        yield Saved(what="validation", path=f"validation/{volume.name}.tif", epoch=epoch)
    pooled = reduce(add, scores)
    summary = model.card.training.model_copy(
        update={"validation_dice": pooled.dice, "validation_f1": pooled.f1, "is_final": True}
    )
    folder.write_text("model/model.yaml", card_to_yaml(model.card.model_copy(update={"training": summary})))
    yield Saved(what="model", path="model/model.yaml", epoch=epoch)
    progress.validation_seconds += time.perf_counter() - start
    seconds = trainer.total_seconds
    yield Finished(
        reason=trainer.reason or "epochs",
        epoch=progress.epoch - 1 if progress.step_in_epoch == 0 else progress.epoch,
        best_epoch=epoch,
        best_dice=pooled.dice,
        best_f1=pooled.f1,
        volumes=validator.by_volume(scores),
        seconds=seconds,
        compute_share=min(1.0, progress.compute_seconds / max(1e-9, seconds - progress.validation_seconds)),
        validation_share=min(1.0, progress.validation_seconds / seconds),
        peak_memory_gb=peak_memory_gb(),
    )


def _tune(
    folder: RunFolder, model: Model, validator: Validator
) -> Generator[Event, None, tuple[Model, dict[int, Maps]]]:
    """The model with the best decoding of objects, saved as well; and the maps of as many validation volumes, by their
    index, as are kept."""
    maps: dict[int, Maps] = {}
    kept = 0
    for index, volume in enumerate(validator.volumes):
        kept += model.predictor.num_outputs * int(np.prod(volume.image.shape))
        if kept > MAX_KEPT_BYTES and maps:
            break
        yield Prepared(stage="segmenting the validation volumes", done=index, total=len(validator.volumes))
        maps[index] = model.predictor.maps(volume.image, volume.statistics)
    card = model.card
    # always from the same start: a run that was interrupted here and goes on finds the same
    first = Setting(validator.threshold, validator.decoding or card.decoding)
    tuner = Tuner(validator.tuning_volumes(maps), card.target, first)
    for num_tried in tuner.run():
        yield Prepared(stage="choosing how objects are separated", done=num_tried, total=num_candidates(card.target))
    if tuner.best is None:
        return model, maps
    tuned = card.model_copy(update={"threshold": tuner.best.threshold, "objects": tuner.best.decoding})
    folder.write_text("model/model.yaml", card_to_yaml(tuned))
    smallest = tuned.decoding.min_size_um3
    left_out = f", without those below {smallest:.3g} µm³" if smallest else ""
    yield Logged(
        message=f"Objects are separated by {_method(tuned.decoding)}, in a foreground of at least "
        f"{tuned.threshold:.2g}{left_out}: the best of {len(tuner.tried)} settings tried on the validation volumes "
        f"(F1 {tuner.f1:.3f})."
    )
    return Model(tuned, model.predictor), maps


def _method(decoding: ObjectDecoding) -> str:
    if decoding.method == "components":
        return "connected components"
    source = "the distance transform of the foreground"
    if decoding.method == "learned":
        source = f"the learned distance and {source}" if decoding.depth_weight else "the learned distance"
    return (
        f"a watershed of {source} (smoothed by {decoding.smoothing_um:.3g} µm, seeds at least "
        f"{decoding.seed_distance_um:.3g} µm apart)"
    )
