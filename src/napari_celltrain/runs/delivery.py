"""The end of a run: the best model predicts every validation volume, and its scores are those of exactly these
files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from napari_celltrain.events import Event, Finished, Prepared, Saved, VolumeScore
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model_file import Model, card_to_yaml, load_model, read_card
from napari_celltrain.runs.segmentation import segment

if TYPE_CHECKING:
    from napari_celltrain.engine.metrics import Score
    from napari_celltrain.runs.job import Job


def deliver(folder: RunFolder, job: Job) -> Iterator[Event]:
    """Write ``validation/`` and the final ``model.yaml``; ends with :class:`Finished`.

    The model is read back from its files, so that what is scored is what a user will load.
    """
    start = time.perf_counter()
    model = load_model(folder.model, job.device)
    scores: list[Score] = []
    volumes = job.trainer.validator.volumes
    for index, volume in enumerate(volumes):
        yield Prepared(stage="segmenting the validation volumes", done=index, total=len(volumes))
        scores.append(_deliver_volume(folder, job, model, index))
        yield Saved(what="validation", path=f"validation/{volume.name}.tif", epoch=model.card.training.epoch)
    pooled = reduce(add, scores)
    _write_final_card(folder, pooled)
    yield Saved(what="model", path="model/model.yaml", epoch=model.card.training.epoch)
    job.trainer.progress.validation_seconds += time.perf_counter() - start
    yield _finished(job, pooled, model.card.training.epoch, scores)


def _deliver_volume(folder: RunFolder, job: Job, model: Model, index: int) -> Score:
    validator = job.trainer.validator
    volume = validator.volumes[index]
    result = segment(model, volume.image, volume.statistics)
    voxel_size = job.preparation.validation_voxel_sizes[index]
    folder.write_volume(f"validation/{volume.name}.tif", result.labels, voxel_size)
    objects = result.labels if job.preparation.scheme.kind == "objects" else None
    return validator.compare(index, result.classes, objects)


def _write_final_card(folder: RunFolder, pooled: Score) -> None:
    card = read_card(folder.model)
    summary = card.training.model_copy(
        update={"validation_dice": pooled.dice, "validation_f1": pooled.f1, "is_final": True}
    )
    folder.write_text("model/model.yaml", card_to_yaml(card.model_copy(update={"training": summary})))


def _finished(job: Job, pooled: Score, best_epoch: int, scores: list[Score]) -> Finished:
    from napari_celltrain.engine.device import peak_memory_gb

    trainer = job.trainer
    progress = trainer.progress
    seconds = trainer.total_seconds
    other = max(1e-9, seconds - progress.validation_seconds)
    return Finished(
        reason=trainer.reason or "epochs",
        epoch=progress.epoch - 1 if progress.step_in_epoch == 0 else progress.epoch,
        best_epoch=best_epoch,
        best_dice=pooled.dice,
        best_f1=pooled.f1,
        volumes=tuple(
            VolumeScore(name=volume.name, dice=score.dice, f1=score.f1)
            for volume, score in zip(trainer.validator.volumes, scores, strict=True)
        ),
        seconds=seconds,
        compute_share=min(1.0, progress.compute_seconds / other),
        validation_share=min(1.0, progress.validation_seconds / seconds),
        peak_memory_gb=peak_memory_gb(),
    )
