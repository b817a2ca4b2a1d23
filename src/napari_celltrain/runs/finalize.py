"""The end of a run: the best model predicts every validation volume, learns from them how objects are best decoded,
and its scores are those of exactly the files that are written.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import Model, Segmentation, card_to_yaml, load_model, read_card, segment, to_objects
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.events import Event, Finished, Logged, Prepared, Saved, VolumeScore

if TYPE_CHECKING:
    from napari_celltrain.engine.scores import Score
    from napari_celltrain.engine.tuning import Tuned
    from napari_celltrain.runs.job import Job

MAX_KEPT_BYTES = 2**30
"""Maps kept from tuning until they are decoded; those of further volumes are predicted again."""


@dataclass
class _Final:
    """The predictions of the best model, on their way to files."""

    job: Job
    model: Model
    maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Of the first validation volumes, as many as are kept."""

    def predict(self) -> Iterator[Event]:
        volumes = self.job.trainer.validator.volumes
        kept = 0
        for index, volume in enumerate(volumes):
            kept += self.model.predictor.num_outputs * int(np.prod(volume.image.shape))
            if kept > MAX_KEPT_BYTES and self.maps:
                break
            yield Prepared(stage="segmenting the validation volumes", done=index, total=len(volumes))
            self.maps[index] = self.model.predictor.maps(volume.image, volume.statistics)

    def segmentation(self, index: int) -> Segmentation:
        volume = self.job.trainer.validator.volumes[index]
        maps = self.maps.pop(index, None)
        if maps is None:
            return segment(self.model, volume.image, volume.statistics, voxel_size=volume.voxel_size)
        return to_objects(self.model.card, maps, voxel_size=volume.voxel_size)


def deliver(folder: RunFolder, job: Job) -> Iterator[Event]:
    """Write ``validation/`` and the final ``model.yaml``; ends with :class:`Finished`.

    The model is read back from its files, so that what is scored is what a user will load.
    """
    start = time.perf_counter()
    final = _Final(job, load_model(folder.model, job.device))
    if job.preparation.scheme.kind == "objects":
        yield from final.predict()
        yield from _tune(folder, final)
    epoch = final.model.card.training.epoch
    scores: list[Score] = []
    volumes = job.trainer.validator.volumes
    for index, volume in enumerate(volumes):
        yield Prepared(stage="writing the validation volumes", done=index, total=len(volumes))
        scores.append(_deliver_volume(folder, final, index))
        yield Saved(what="validation", path=f"validation/{volume.name}.tif", epoch=epoch)
    pooled = reduce(add, scores)
    _write_final_card(folder, pooled)
    yield Saved(what="model", path="model/model.yaml", epoch=epoch)
    job.trainer.progress.validation_seconds += time.perf_counter() - start
    yield _finished(job, pooled, epoch, scores)


def _tune(folder: RunFolder, final: _Final) -> Generator[Event, None, None]:
    """Choose how objects are decoded, and keep it in the model."""
    from napari_celltrain.engine.tuning import Setting, Tuner

    job, card = final.job, final.model.card
    validator = job.trainer.validator
    # always from the same start: a run that was interrupted here and goes on finds the same
    first = Setting(validator.threshold, validator.decoding or card.decoding)
    tuner = Tuner(validator.tuning_volumes(final.maps), card.target, first)
    for num_tried in tuner.run():
        yield Prepared(stage="choosing how objects are told apart", done=num_tried, total=tuner.num_candidates)
    if tuner.best is None:
        return
    tuned = card.model_copy(update={"threshold": tuner.best.setting.threshold, "objects": tuner.best.setting.decoding})
    folder.write_text("model/model.yaml", card_to_yaml(tuned))
    final.model = Model(tuned, final.model.predictor)
    yield Logged(message=_tuned_sentence(tuner.best, tuner.num_tried))


def _tuned_sentence(tuned: Tuned, num_tried: int) -> str:
    setting = tuned.setting
    smallest = setting.decoding.min_size_um3
    left_out = f", without those below {smallest:.3g} µm³" if smallest else ""
    return (
        f"Objects are told apart by {_method(setting.decoding)}, in a foreground of at least {setting.threshold:.2g}"
        f"{left_out}: the best of {num_tried} ways that were tried on the validation volumes (F1 {tuned.f1:.3f})."
    )


def _method(decoding: ObjectDecoding) -> str:
    if decoding.method == "components":
        return "connected pieces"
    source = "the depth of the foreground"
    if decoding.method == "learned":
        source = f"what was learned and {source}" if decoding.depth_weight else "what was learned"
    return (
        f"a watershed of {source} (smoothed by {decoding.smoothing_um:.3g} µm, seeds at least "
        f"{decoding.seed_distance_um:.3g} µm apart)"
    )


def _deliver_volume(folder: RunFolder, final: _Final, index: int) -> Score:
    validator = final.job.trainer.validator
    volume = validator.volumes[index]
    result = final.segmentation(index)
    folder.write_volume(f"validation/{volume.name}.tif", result.labels, volume.voxel_size)
    objects = result.labels if final.job.preparation.scheme.kind == "objects" else None
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
