"""The end of a run: the best model predicts every validation volume, the decoding of objects is tuned on them, and
the scores are those of exactly the files that are written.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import Model, card_to_yaml, load_model, segment, to_objects
from napari_celltrain.runs.setup import Setup
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.events import Event, Finished, Logged, Prepared, Saved

if TYPE_CHECKING:
    from napari_celltrain.engine.scores import Score
    from napari_celltrain.engine.trainer import Trainer
    from napari_celltrain.engine.validation import Validator

MAX_KEPT_BYTES = 2**30
"""Maps kept from tuning until they are decoded; those of further volumes are predicted again."""

Maps = dict[int, NDArray[np.uint8]]
"""By the index of their validation volume."""


def finalize(folder: RunFolder, setup: Setup) -> Generator[Event, None, None]:
    """Write ``validation/`` and the final ``model.yaml``; ends with :class:`Finished`.

    The model is read back from its files, so that what is scored is what a user will load.
    """
    start = time.perf_counter()
    trainer, is_objects = setup.trainer, setup.preparation.scheme.kind == "objects"
    model = load_model(folder.model, trainer.learner.device)
    maps: Maps = {}
    if is_objects:
        maps = yield from _predict(model, trainer.validator)
        model = yield from _tune(folder, model, trainer.validator, maps)
    epoch = model.card.training.epoch
    scores: list[Score] = []
    volumes = trainer.validator.volumes
    for index, volume in enumerate(volumes):
        yield Prepared(stage="writing the validation volumes", done=index, total=len(volumes))
        if index in maps:
            result = to_objects(model.card, maps.pop(index), voxel_size=volume.voxel_size)
        else:
            result = segment(model, volume.image, volume.statistics, voxel_size=volume.voxel_size)
        folder.write_volume(f"validation/{volume.name}.tif", result.labels, volume.voxel_size)
        scores.append(trainer.validator.compare(index, result.classes, result.labels if is_objects else None))
        yield Saved(what="validation", path=f"validation/{volume.name}.tif", epoch=epoch)
    pooled = reduce(add, scores)
    summary = model.card.training.model_copy(
        update={"validation_dice": pooled.dice, "validation_f1": pooled.f1, "is_final": True}
    )
    folder.write_text("model/model.yaml", card_to_yaml(model.card.model_copy(update={"training": summary})))
    yield Saved(what="model", path="model/model.yaml", epoch=epoch)
    trainer.progress.validation_seconds += time.perf_counter() - start
    yield _finished(trainer, pooled, epoch, scores)


def _predict(model: Model, validator: Validator) -> Generator[Event, None, Maps]:
    """Maps of the first validation volumes, as many as are kept."""
    maps: Maps = {}
    kept = 0
    for index, volume in enumerate(validator.volumes):
        kept += model.predictor.num_outputs * int(np.prod(volume.image.shape))
        if kept > MAX_KEPT_BYTES and maps:
            break
        yield Prepared(stage="segmenting the validation volumes", done=index, total=len(validator.volumes))
        maps[index] = model.predictor.maps(volume.image, volume.statistics)
    return maps


def _tune(folder: RunFolder, model: Model, validator: Validator, maps: Maps) -> Generator[Event, None, Model]:
    """The model with the best decoding of objects, saved as well."""
    from napari_celltrain.engine.validation import Setting, Tuner

    card = model.card
    # always from the same start: a run that was interrupted here and goes on finds the same
    first = Setting(validator.threshold, validator.decoding or card.decoding)
    tuner = Tuner(validator.tuning_volumes(maps), card.target, first)
    for num_tried in tuner.run():
        yield Prepared(stage="choosing how objects are separated", done=num_tried, total=tuner.num_candidates)
    if tuner.best is None:
        return model
    tuned = card.model_copy(update={"threshold": tuner.best.setting.threshold, "objects": tuner.best.setting.decoding})
    folder.write_text("model/model.yaml", card_to_yaml(tuned))
    smallest = tuned.decoding.min_size_um3
    left_out = f", without those below {smallest:.3g} µm³" if smallest else ""
    yield Logged(
        message=f"Objects are separated by {_method(tuned.decoding)}, in a foreground of at least "
        f"{tuned.threshold:.2g}{left_out}: the best of {tuner.num_tried} settings tried on the validation volumes "
        f"(F1 {tuner.best.f1:.3f})."
    )
    return Model(tuned, model.predictor)


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


def _finished(trainer: Trainer, pooled: Score, best_epoch: int, scores: list[Score]) -> Finished:
    from napari_celltrain.engine.device import peak_memory_gb

    progress = trainer.progress
    seconds = trainer.total_seconds
    other = max(1e-9, seconds - progress.validation_seconds)
    return Finished(
        reason=trainer.reason or "epochs",
        epoch=progress.epoch - 1 if progress.step_in_epoch == 0 else progress.epoch,
        best_epoch=best_epoch,
        best_dice=pooled.dice,
        best_f1=pooled.f1,
        volumes=trainer.validator.by_volume(scores),
        seconds=seconds,
        compute_share=min(1.0, progress.compute_seconds / other),
        validation_share=min(1.0, progress.validation_seconds / seconds),
        peak_memory_gb=peak_memory_gb(),
    )
