"""What a trained model says of one volume: the step that the final files of a run and every later use share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.parts.normalization import IntensityStatistics

if TYPE_CHECKING:
    from napari_celltrain.runs.model_file import Model


@dataclass(frozen=True, slots=True)
class Segmentation:
    """``classes`` (Z, Y, X) are the network's class indices; ``labels`` are what a user gets: numbered objects,
    0 and 1, or the label values of the classes, as uint16 (uint32 beyond 65,535 objects)."""

    classes: NDArray[np.uint8]
    labels: NDArray[Any]


def segment(
    model: Model,
    image: LazyArray,
    statistics: IntensityStatistics,
    *,
    probabilities: Callable[[int, NDArray[np.float32]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Segmentation:
    """Segment a volume (Z, Y, X) whose intensity statistics have been measured as the model asks."""
    classes = model.predictor.labels(
        image, statistics, threshold=model.card.threshold, probabilities=probabilities, cancelled=cancelled
    )
    return Segmentation(classes, _to_labels(model, classes))


def _to_labels(model: Model, classes: NDArray[np.uint8]) -> NDArray[Any]:
    from napari_celltrain.engine.metrics import connected_components

    if model.card.label_kind == "objects":
        objects = connected_components(classes > 0)
        return objects.astype(np.uint16 if objects.max(initial=0) < 2**16 else np.uint32)
    if model.card.label_kind == "classes":
        values = np.array(model.card.class_values)
        return values.astype(np.uint16 if values.max() < 2**16 else np.uint32)[classes]
    return classes.astype(np.uint16)
