"""What a trained model says of one volume: the step that the final files of a run and every later use share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import Spacing
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.decoding import ObjectDecoding
from napari_celltrain.parts.normalization import IntensityStatistics

if TYPE_CHECKING:
    from napari_celltrain.runs.model_file import Model, ModelCard


@dataclass(frozen=True, slots=True)
class Segmentation:
    """``classes`` (Z, Y, X) are class indices, of objects 0 and 1; ``labels`` are what a user gets: numbered objects,
    0 and 1, or the label values of the classes, as uint16 (uint32 beyond 65,535 objects)."""

    classes: NDArray[np.uint8]
    labels: NDArray[Any]
    maps: NDArray[np.uint8] | None = None
    """What the objects were decoded from (C, Z, Y, X): probabilities in 255 steps. None for other labels."""


def segment(
    model: Model,
    image: LazyArray,
    statistics: IntensityStatistics,
    *,
    voxel_size: Spacing | None = None,
    threshold: float | None = None,
    decoding: ObjectDecoding | None = None,
    probabilities: Callable[[int, NDArray[np.float32]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Segmentation:
    """Segment a volume (Z, Y, X) whose intensity statistics have been measured as the model asks.

    ``voxel_size`` is the image's own, where known; ``threshold`` and ``decoding`` replace those of the model.
    ``probabilities`` is called with each group of planes: first plane, (C, planes, Y, X).
    """
    card = model.card
    threshold = card.threshold if threshold is None else threshold
    if card.label_kind == "objects":
        maps = model.predictor.maps(image, statistics, probabilities=probabilities, cancelled=cancelled)
        return to_objects(card, maps, voxel_size=voxel_size, threshold=threshold, decoding=decoding)
    classes = model.predictor.labels(
        image, statistics, threshold=threshold, probabilities=probabilities, cancelled=cancelled
    )
    if card.label_kind == "classes":
        values = np.array(card.class_values)
        return Segmentation(classes, values.astype(np.uint16 if values.max() < 2**16 else np.uint32)[classes])
    return Segmentation(classes, classes.astype(np.uint16))


def to_objects(
    card: ModelCard,
    maps: NDArray[np.uint8],
    *,
    voxel_size: Spacing | None = None,
    threshold: float | None = None,
    decoding: ObjectDecoding | None = None,
) -> Segmentation:
    """Decode maps that are there already; takes a fraction of the time that it took to predict them."""
    from napari_celltrain.engine.objects import decode

    threshold = card.threshold if threshold is None else threshold
    objects = decode(maps, threshold, decoding or card.decoding, voxel_size or card.spacing)
    labels: NDArray[Any] = objects.astype(np.uint16 if objects.max(initial=0) < 2**16 else np.uint32)
    return Segmentation((objects > 0).view(np.uint8), labels, maps)
