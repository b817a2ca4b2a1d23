"""Work in a thread: segmenting a layer, following the process that segments files, measuring and scoring objects.

A layer is in napari's memory already, and its probability maps have to come back to it: objects are decoded from them
again when the user turns an option.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.data.differences import mark_wrong
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import ArrayVolume, LazyArray
from napari_celltrain.runs.model import ModelCard
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

LOADING = "Loading the model"
READING = "Reading the image"
PREDICTING = "Segmenting"
DECODING = "Decoding objects"

MAX_BYTES = 4 * 2**30
"""Maps larger than this are not kept; nor are those of more than a quarter of the memory that is free."""

Columns = dict[str, NDArray[Any]]
Progress = tuple[int, int] | tuple[int, int, str]
"""Done, of how many (0: not known), and what where that has changed."""


@dataclass(frozen=True, slots=True)
class Maps:
    """The probability maps of a volume, kept so that objects can be decoded from them again."""

    card: ModelCard
    maps: NDArray[np.uint8]
    """uint8 (C, Z, Y, X), at the voxel size that the network saw."""
    voxel_size: Spacing | None
    shape: tuple[int, ...]
    """Of the image (Z, Y, X), which is another one where it was resampled."""

    def fit_in_memory(self) -> bool:
        """Whether they are worth their memory."""
        return bool(self.maps.nbytes <= min(MAX_BYTES, psutil.virtual_memory().available // 4))


@dataclass(frozen=True, slots=True)
class Result:
    labels: NDArray[Any]
    """(Z, Y, X), on the grid of the image."""
    maps: Maps | None
    """None where labels are not objects."""
    summary: str
    """What was found, for people."""


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    threshold: float | None = None
    """None for that of the model."""
    decoding: ObjectDecoding | None = None
    """None for that of the model, and where labels are not objects."""
    resample: bool = False
    """To the voxel size of the model."""
    device: str = "auto"
    probabilities: bool = False
    """Write them beside the labels; for files only."""


def segment_volume(
    job: Job, model: Path, image: ArrayVolume, options: SegmentOptions
) -> Generator[Progress, None, Result]:
    """The labels of ``image``. Raises :class:`CellTrainError`."""
    yield 0, 0, LOADING
    importlib.import_module("pandas")  # napari's first labels need it, and the window should not wait for it
    from napari_celltrain.engine.device import resolve_device, set_threads
    from napari_celltrain.nets.normalize import measure
    from napari_celltrain.predict.files import refuse_other_scale
    from napari_celltrain.runs.model import load_model, segment

    set_threads(spare_cores())
    loaded = load_model(model, resolve_device(options.device))
    card, size = loaded.card, image.voxel_size
    if not options.resample:
        refuse_other_scale(image, card)
    yield 0, 0, READING
    array = image.read()
    seen: LazyArray = array
    statistics = measure(array, card.normalization, name=image.name)
    if options.resample and size and card.voxel_size:
        from napari_celltrain.data.resample import resampled

        seen, size = resampled(array, size, card.voxel_size), card.voxel_size
    yield 0, 0, PREDICTING

    def on_batch(number: int, total: int) -> None:
        """Reports progress, and leaves where the job is given up."""
        job.tell(number, total, PREDICTING)

    if card.label_kind == "objects":
        maps = loaded.predictor.maps(seen, statistics, on_batch=on_batch)
        yield 0, 0, DECODING
        return decode_again(job, Maps(card, maps, size, array.shape), options)
    found = segment(loaded, seen, statistics, threshold=options.threshold, on_batch=on_batch)
    share = np.count_nonzero(found.classes) / max(1, found.classes.size)
    return Result(_on_grid(found.labels, array.shape), None, f"{share:.1%} of the voxels are foreground.")


def decode_again(job: Job, kept: Maps, options: SegmentOptions) -> Result:
    """Recompute objects from the stored probability maps; the network does not run."""
    from napari_celltrain.runs.model import to_objects

    found = to_objects(
        kept.card, kept.maps, voxel_size=kept.voxel_size, threshold=options.threshold, decoding=options.decoding
    )
    summary = f"{count(int(found.labels.max(initial=0)), 'object')} found."
    return Result(_on_grid(found.labels, kept.shape), kept, summary)


def _on_grid(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if labels.shape == shape:
        return labels
    from napari_celltrain.data.resample import labels_back

    return labels_back(labels, zyx(shape))


@dataclass(frozen=True, slots=True)
class Written:
    """A file of labels, and the image that it is of, where that is known."""

    labels: Path
    image: Path | None


def segment_files(job: Job, request: PredictRequest) -> Generator[Progress | Written | str, None, int]:
    """The number of files written. Yields progress, each file, and warnings as text. Raises ``CellTrainError``."""
    from napari_celltrain.io.volumes import find_volumes, stem_of  # it brings tifffile and Zarr

    yield 0, 0, "Starting"
    images = {stem_of(path): path for entry in request.inputs for path in find_volumes(entry)}
    num_written = 0
    for event in segment_in_process(request, lambda: job.cancelled.is_set()):
        match event:
            case Prepared():
                stage = printable(event.stage)
                # of a single volume it is not known how far it is, and a bar that stands still would say nothing
                yield event.done, event.total if event.total > 1 else 0, f"{stage[:1].upper()}{stage[1:]}"
            case Saved(what="prediction"):
                labels = Path(event.path)
                num_written += 1
                yield Written(labels, images.get(stem_of(labels)))
            case Warned():
                yield printable(event.message)
            case Failed():
                raise CellTrainError(printable(event.message))
    return num_written


def measure(
    labels: ArrayVolume, images: list[ArrayVolume]
) -> Generator[Progress, None, tuple[Columns, NDArray[np.float64]]]:
    """The columns, and the centre of each object in voxels (z, y, x)."""
    from napari_celltrain.data.measure import measuring
    from napari_celltrain.data.objects import find_objects

    for image in images:
        if image.shape != labels.shape:
            raise DataError(
                f"{image.name}: has another shape ({sizes(image.shape)}) than the labels ({sizes(labels.shape)}). "
                "Choose the image that the labels are of, or none."
            )
    importlib.import_module("pandas")  # the layer's features need it, and the window should not wait for it
    size = labels.voxel_size or next((image.voxel_size for image in images), None)
    columns = yield from measuring(labels.lazy(), [image.lazy() for image in images] or None, size)
    return columns, find_objects(labels.lazy()).centres


def evaluate(
    job: Job, truth: ArrayVolume, predicted: ArrayVolume, kind: LabelKind, ignore_value: int | None
) -> Generator[Progress, None, tuple[VolumeScores, NDArray[np.uint8] | None]]:
    """The scores, and for objects the wrong ones as :class:`Difference`."""
    from napari_celltrain.evaluate.evaluation import evaluate_arrays

    scores = yield from evaluate_arrays(
        truth.lazy(),
        predicted.lazy(),
        truth.voxel_size or predicted.voxel_size,
        name=predicted.name,
        label_kind=kind,
        ignore_value=ignore_value,
    )
    if scores.objects is None:
        return scores, None
    return scores, mark_wrong(truth.lazy(), predicted.lazy(), scores.wrong, ignore_value)
