"""Work in a thread: segmenting a layer, following the process that segments files, measuring and scoring objects.

A layer is in napari's memory already, and its probability maps have to come back to it: objects are decoded from them
again when the user turns an option.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.data.differences import mark_wrong
from napari_celltrain.data.measure import Columns, measuring
from napari_celltrain.data.pairs import Pair
from napari_celltrain.data.resample import labels_back, resampled
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import ArrayVolume, LazyArray
from napari_celltrain.io.volumes import find_volumes, stem_of
from napari_celltrain.predict.files import refuse_other_scale
from napari_celltrain.runs.model import ModelCard, load_model, segment, to_objects
from napari_celltrain.runs.process import PredictRequest, segment_in_process
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.values.events import Failed, Prepared, Saved, Warned
from napari_celltrain.values.text import count, printable, sizes
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.run.sources import spare_cores

if TYPE_CHECKING:
    from napari_celltrain.evaluate.evaluation import VolumeScores

PREDICTING = "Segmenting"

Progress = tuple[int, int] | tuple[int, int, str]
"""Done, of how many (0: not known), and what where that has changed."""


@dataclass(frozen=True, slots=True)
class Result:
    labels: NDArray[Any]
    """(Z, Y, X), on the grid of the image."""
    decode: Callable[[float | None, ObjectDecoding | None], Generator[Progress, None, Result]] | None
    """Decodes the stored probability maps again, by another threshold and decoding. None where labels are not objects,
    and where the maps are too large to be kept."""
    summary: str
    """What was found, for people."""


def segment_volume(
    job: Job,
    model: Path,
    image: ArrayVolume,
    *,
    device: str = "auto",
    resample: bool = False,
    threshold: float | None = None,
    decoding: ObjectDecoding | None = None,
) -> Generator[Progress, None, Result]:
    """The labels of ``image``; the arguments are those of :class:`PredictRequest`. Raises :class:`CellTrainError`."""
    yield 0, 0, "Loading the model"
    importlib.import_module("pandas")  # napari's first labels need it, and the window should not wait for it
    from napari_celltrain.engine.device import resolve_device, set_threads
    from napari_celltrain.predict.volumes import adjusted

    set_threads(spare_cores())
    loaded = load_model(model, resolve_device(device))
    card, size = loaded.card, image.voxel_size
    if not resample:
        refuse_other_scale(image, card)
    yield 0, 0, "Reading the image"
    array = image.read()
    seen: LazyArray = array
    statistics = card.measure(array, image.name)
    if resample and size and card.voxel_size:
        seen, size = resampled(array, size, card.voxel_size), card.voxel_size
    yield 0, 0, PREDICTING

    def on_batch(number: int, total: int) -> None:
        job.report((number, total, PREDICTING))  # which leaves where the job is given up

    if card.label_kind == "objects":
        maps = loaded.predictor.maps(seen, statistics, on_batch=on_batch)
        return (yield from _decode(card, maps, size, array.shape, threshold, decoding))
    found = segment(replace(loaded, card=adjusted(card, threshold, None)), seen, statistics, on_batch=on_batch)
    share = np.count_nonzero(found.classes) / max(1, found.classes.size)
    return Result(_on_grid(found.labels, array.shape), None, f"{share:.1%} of the voxels are foreground.")


def _decode(
    card: ModelCard,
    maps: NDArray[np.uint8],
    voxel_size: Spacing | None,
    shape: tuple[int, ...],
    threshold: float | None,
    decoding: ObjectDecoding | None,
) -> Generator[Progress, None, Result]:
    """The objects of ``maps`` (C, Z, Y, X), at ``voxel_size``, on the grid of an image of ``shape`` (Z, Y, X)."""
    from napari_celltrain.predict.volumes import adjusted

    yield 0, 0, "Decoding objects"
    labels = to_objects(adjusted(card, threshold, decoding), maps, voxel_size).labels
    fit = maps.nbytes <= min(4 * 2**30, psutil.virtual_memory().available // 4)
    again = partial(_decode, card, maps, voxel_size, shape) if fit else None
    return Result(_on_grid(labels, shape), again, f"{count(int(labels.max(initial=0)), 'object')} found.")


def _on_grid(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return labels if labels.shape == shape else labels_back(labels, zyx(shape))


def segment_files(job: Job, request: PredictRequest) -> Generator[Progress | Pair | str, None, str]:
    """Returns what to say at the end. Yields progress, each file with its image (itself where that is not known), and
    warnings as text. Raises ``CellTrainError``."""
    yield 0, 0, "Starting"
    images = {stem_of(path): path for entry in request.inputs for path in find_volumes(entry)}
    num_written = 0
    for event in segment_in_process(request, job.cancelled.is_set):
        match event:
            case Prepared():
                stage = printable(event.stage)
                # of a single volume it is not known how far it is, and a bar that stands still would say nothing
                yield event.done, event.total if event.total > 1 else 0, f"{stage[:1].upper()}{stage[1:]}"
            case Saved(what="prediction"):
                labels = Path(event.path)
                num_written += 1
                yield Pair(labels.stem, images.get(stem_of(labels), labels), labels, "written")
            case Warned():
                yield printable(event.message)
            case Failed():
                raise CellTrainError(printable(event.message))
    return f"{count(num_written, 'volume')} segmented, in {request.output}."


def measure_objects(labels: ArrayVolume, images: list[ArrayVolume]) -> Generator[Progress, None, Columns]:
    """As :func:`measuring`. Raises :class:`DataError` for an image of another shape."""
    for image in images:
        if image.shape != labels.shape:
            raise DataError(
                f"{image.name}: has another shape ({sizes(image.shape)}) than the labels ({sizes(labels.shape)}). "
                "Choose the image that the labels are of, or none."
            )
    importlib.import_module("pandas")  # the layer's features need it, and the window should not wait for it
    size = labels.voxel_size or next((image.voxel_size for image in images), None)
    return (yield from measuring(labels.lazy_or_whole(), [image.lazy_or_whole() for image in images], size))


def evaluate(
    job: Job, truth: ArrayVolume, predicted: ArrayVolume, label_kind: LabelKind, ignore_value: int | None
) -> Generator[Progress, None, tuple[VolumeScores, NDArray[np.uint8] | None]]:
    """The scores, and for objects the wrong ones as :class:`Difference`."""
    from napari_celltrain.evaluate.evaluation import evaluate_arrays

    arrays, size = (truth.lazy_or_whole(), predicted.lazy_or_whole()), truth.voxel_size or predicted.voxel_size
    scores = yield from evaluate_arrays(
        *arrays, size, name=predicted.name, label_kind=label_kind, ignore_value=ignore_value
    )
    return scores, None if scores.objects is None else mark_wrong(*arrays, scores.wrong, ignore_value)
