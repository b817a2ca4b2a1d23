"""A layer of the viewer as a volume to segment: one channel of it where it has several, with its voxel size.

The choice of one layer of the viewer.

Bringing an object into view.

Results as labels layers: one for each image and model, renewed when they are used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from magicgui.widgets import create_widget
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets.layers import full_resolution, is_own, undisturbed, voxel_size_of
from napari_celltrain.widgets.theme import tooltip

_CHANNEL_NAMES = ("c", "channel", "channels", "ch")
_TIME_NAMES = ("t", "time", "timepoint")
_MIN_PLANES = 2


@dataclass(frozen=True, slots=True)
class Stack:
    """What a layer holds more of than one volume."""

    axis: int
    """Of the layer's array."""
    num: int
    name: str
    """``channel``, or what the layer itself calls the axis."""


def stack_of(layer: Any) -> Stack | None:
    """The axis of channels (or time points) of a layer with four axes; None for a single volume.

    By its label where the layer names it, else the shorter one of the first two: channels come first or second.
    Raises :class:`DataError` for what cannot be segmented.
    """
    array = full_resolution(layer)
    shape = tuple(int(length) for length in array.shape)
    if getattr(layer, "rgb", False):
        raise DataError(f"{layer.name}: is a colour (RGB) image. Split its channels (right click ▸ Split RGB).")
    sizes = " × ".join(map(str, shape))
    if len(shape) < 3 or sum(length >= _MIN_PLANES for length in shape) < 3:
        raise DataError(
            f"{layer.name}: is a 2D layer ({sizes}). The model segments volumes: choose a layer that holds a stack of "
            "planes."
        )
    if len(shape) > 4:
        raise DataError(
            f"{layer.name}: has {len(shape)} axes ({sizes}), and at most four can be used (channel, z, y, x). "
            "Take a part of it (right click ▸ Split Stack)."
        )
    if len(shape) == 3:
        return None
    labels = [str(label).casefold() for label in getattr(layer, "axis_labels", ())]
    named = [axis for axis, label in enumerate(labels) if label in (*_CHANNEL_NAMES, *_TIME_NAMES)]
    axis = named[0] if named else 0 if shape[0] <= shape[1] else 1
    name = "time point" if named and labels[axis] in _TIME_NAMES else "channel"
    return Stack(axis, shape[axis], name)


def volume_of(layer: Any, index: int = 0) -> ArrayVolume:
    """The volume of a layer, or the one at ``index`` of its :func:`stack_of`; nothing is read. Raises ``DataError``."""
    stack = stack_of(layer)
    array = full_resolution(layer)
    if stack is None:
        return ArrayVolume(layer.name, array, voxel_size_of(layer))
    if not 0 <= index < stack.num:
        raise DataError(
            f"{layer.name}: has {stack.num} {stack.name}s, and there is none of number {index}, count from 0."
        )
    axes = "ZYX"[: stack.axis] + "C" + "ZYX"[stack.axis :]
    return ArrayVolume(layer.name, array, voxel_size_of(_spatial(layer, stack)), axes=axes, channel=index)


def _spatial(layer: Any, stack: Stack) -> Any:
    """Scale and units of z, y and x alone."""
    kept = [axis for axis in range(4) if axis != stack.axis]
    units = getattr(layer, "units", None)
    return SimpleNamespace(
        scale=[layer.scale[axis] for axis in kept], units=units and [tuple(units)[axis] for axis in kept]
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result belongs: the keywords of a new layer, and how its array is shaped for the viewer's axes."""

    options: dict[str, Any]
    axis: int | None = None
    """An axis of length one that the layer's own volumes have in their midst."""

    def shaped(self, labels_ZYX: NDArray[Any]) -> NDArray[Any]:
        return labels_ZYX if self.axis is None else np.expand_dims(labels_ZYX, self.axis)


def place_of(layer: Any, index: int = 0) -> Place:
    """Scale, position and units of a result on ``layer``."""
    stack = stack_of(layer)
    if stack is not None and (stack.axis > 0 or stack.name != "channel"):
        # It stands at its own channel or time point; the slider finds it there.
        translate = np.array(layer.translate, float)
        translate[stack.axis] += index * layer.scale[stack.axis]
        options = {"scale": tuple(layer.scale), "translate": tuple(translate)}
        return Place(options | _units(layer, slice(None)), stack.axis)
    last = slice(-3, None)
    options = {"scale": tuple(layer.scale[last]), "translate": tuple(layer.translate[last])}
    if stack is None:
        options |= {"rotate": layer.rotate, "shear": layer.shear}
    return Place(options | _units(layer, last))


def _units(layer: Any, axes: slice) -> dict[str, Any]:
    return {"units": tuple(layer.units)[axes]} if hasattr(layer, "units") else {}


# --- layer box -------------------------------------------------------------------------------------------

Kind = Literal["image", "labels"]


class LayerBox(QWidget):
    """Edits a layer of the viewer, or None; those that the plugin shows while training are not offered."""

    valueChanged = Signal()

    def __init__(self, viewer: Any, kind: Kind, name: str, help_text: str, *, optional: bool = False) -> None:
        super().__init__()
        self._viewer = viewer
        self._kind = kind
        self._told: Any = None
        box: Any = create_widget(
            annotation=f"napari.layers.{kind.capitalize()}",
            options={"nullable": optional, "choices": self._choices},
        )
        self.box = box
        self.box.native.setMinimumWidth(60)
        self.box.native.setAccessibleName(name)
        self.box.native.setToolTip(tooltip(help_text))
        self.setFocusProxy(self.box.native)  # before it is inside: else Qt closes the order of Tab to a ring
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box.native)
        self.box.changed.connect(self._tell)
        self._told = self.value()

    def value(self) -> Any:
        return self.box.value

    def setValue(self, layer: Any) -> None:
        self.box.value = layer

    def has(self, layer: Any) -> bool:
        return layer in self._choices()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        self.box.reset_choices()
        self._tell()  # magicgui is silent where nothing is left to choose

    def _choices(self, *_: Any) -> list[Any]:
        """The topmost first."""
        return [
            layer for layer in reversed(self._viewer.layers) if layer._type_string == self._kind and not is_own(layer)
        ]

    def _tell(self, *_: Any) -> None:
        if self.value() is not self._told:
            self._told = self.value()
            self.valueChanged.emit()


# --- jump ------------------------------------------------------------------------------------------------


def jump_to(viewer: Any, layer: Any, label: int, position_zyx: Sequence[float]) -> None:
    """Move the sliders and the camera to a position in voxels of ``layer``, and select the object there.

    Zoom and angles stay. A layer that is hidden is shown.
    """
    if layer not in viewer.layers:
        return
    position = np.zeros(layer.ndim)
    position[_spatial_axes(layer)] = position_zyx
    world = layer.data_to_world(position)
    first = viewer.dims.ndim - layer.ndim
    viewer.dims.set_point(range(first, viewer.dims.ndim), [float(value) for value in world])
    displayed = [float(viewer.dims.point[axis]) for axis in viewer.dims.displayed]
    for n, axis in enumerate(viewer.dims.displayed):
        if axis >= first:  # the camera goes to the object itself, the sliders to the nearest step
            displayed[n] = float(world[axis - first])
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    camera.center = tuple([0.0] * (3 - len(displayed)) + displayed)
    layer.visible = True
    layer.selected_label = label
    viewer.layers.selection.active = layer


def _spatial_axes(layer: Any) -> list[int]:
    """Z, y and x: the axes but for one of length one in their midst, where results of one channel have it."""
    long = [axis for axis, size in enumerate(full_resolution(layer).shape) if size > 1]
    return long[-3:] if len(long) >= 3 and layer.ndim > 3 else list(range(layer.ndim - 3, layer.ndim))


# --- result layers ---------------------------------------------------------------------------------------

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
