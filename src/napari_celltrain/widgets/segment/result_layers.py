"""Results as labels layers: one for each image and model, renewed when they are used again."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from napari_celltrain.widgets.own_layers import undisturbed
from napari_celltrain.widgets.segment.layer_input import Place

RESULT = "celltrain_result"
"""Key in the metadata of a result: which image and which model it is of."""
_EDITED = "celltrain_edited"


def show_result(viewer: Any, image_id: str, image_name: str, model: str, labels: NDArray[Any], place: Place) -> Any:
    """Renew the layer of this image and model, or add it as "<image> – <model>".

    A layer that the user has painted in is left alone: what was corrected by hand is never lost.
    """
    key = f"{image_id} {model}"
    layer = find_result(viewer, key)
    shaped = place.shaped(labels)
    with undisturbed(viewer):
        if layer is None or layer.ndim != shaped.ndim:
            layer = viewer.add_labels(
                shaped, name=f"{image_name} – {model}", metadata={RESULT: key}, opacity=0.6, **place.options
            )
            layer.events.paint.connect(_note_edit)
            return layer
        layer.data = shaped
        layer.features = {}  # measured on what was there before
        for name, value in place.options.items():
            setattr(layer, name, value)
        layer.visible = True
    return layer


def find_result(viewer: Any, key: str) -> Any:
    """The topmost layer of ``key`` that nobody has painted in; None where there is none."""
    for layer in reversed(viewer.layers):
        if layer.metadata.get(RESULT) == key and not layer.metadata.get(_EDITED):
            return layer
    return None


def _note_edit(event: Any) -> None:
    event.source.metadata[_EDITED] = True
