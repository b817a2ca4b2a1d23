"""What to segment: a layer of the viewer, read as a volume, or files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import PathEdit
from napari_celltrain.widgets.forms.rows import FieldRows, Fold
from napari_celltrain.widgets.layers import full_resolution, is_plugin_layer, voxel_size_of
from napari_celltrain.widgets.segment.parts import Message
from napari_celltrain.widgets.theme import fill, tooltip


class InputPanel(QWidget):
    """Edits the source, and for each source which of its volumes. ``valueChanged`` comes with edits of a layer, too."""

    valueChanged = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.voxel_size: Spacing | None = None
        """Of the layer; None where it is not known."""
        self._trained_channel: int | None = None
        self.layer_button, self.files_button = QRadioButton("A layer"), QRadioButton("Files")
        self.layer = LayerBox(viewer, "image", "Image layer to segment", "An image layer that holds a volume")
        self.channel = ComboBox()
        self.channel.setAccessibleName("Channel")
        self.message = Message()
        self._layer_rows = FieldRows()
        self._layer_rows.add_control("Layer", self.layer)
        self._layer_rows.add_control("Channel", self.channel)
        self._layer_rows.form.addRow(self.message)
        self.images = PathEdit("either", history="segment.images", placeholder="File or folder, or drop it here")
        self.output = PathEdit("folder", history="segment.output", placeholder="Folder, or drop it here")
        self.file_fields = FieldRows(("data.channel", "data.voxel_size", "data.axes"))
        self._file_rows = FieldRows()
        images_help = "A TIFF file, an OME-Zarr folder, or a folder with any number of them."
        self._file_rows.add_control("Images", self.images, images_help)
        self._file_rows.add_control("Results", self.output, "Folder for the labels, one file for each volume.")
        self._file_rows.form.addRow(Fold("More about the files", self.file_fields))
        source = fill(QHBoxLayout(), self.layer_button, self.files_button, None)
        fill(QVBoxLayout(self), source, self._layer_rows, self._file_rows, spacing=2)
        self.layer_button.toggled.connect(self._switch)
        self.layer.valueChanged.connect(self._offer_channels)
        self.layer.edited.connect(self._describe)
        self.channel.currentIndexChanged.connect(self._describe)
        for editor in (self.images, self.output):
            editor.valueChanged.connect(partial(editor.set_problem, None))
        self.layer_button.setChecked(True)
        self._offer_channels()

    @property
    def is_layer(self) -> bool:
        return bool(self.layer_button.isChecked())

    @property
    def index(self) -> int:
        """The channel, or time point, of the layer, count from 0."""
        return max(0, self.channel.currentIndex())

    def files(self) -> tuple[Path, Path]:
        """The images to segment, and the folder for the results. Raises :class:`DataError` and marks the field."""
        images, output = self.images.value(), self.output.value()
        self.images.set_problem(None if images else "Choose a file, or a folder of files.")
        self.output.set_problem(None if output else "Choose a folder for the results.")
        if images is None:
            raise DataError("No images are chosen. Choose a file or a folder, or drop it on the field.")
        if output is None:
            raise DataError("No folder for the results is chosen. Choose one, or drop it on the field.")
        return images, output

    def set_channel(self, channel: int | None) -> None:
        """The channel that the model was trained on: of a layer with several it is chosen by itself."""
        self._trained_channel = channel
        if channel is not None and channel < self.channel.count():
            self.channel.setCurrentIndex(channel)

    def _offer_channels(self) -> None:
        layer, stack = self.layer.value(), None
        with suppress(DataError):
            stack = stack_of(layer) if layer is not None else None
        with QSignalBlocker(self.channel):
            self.channel.clear()
            if stack is not None:
                self.channel.addItems([f"{stack.name} {index}" for index in range(stack.num)])
                self.set_channel(self._trained_channel)
        self._layer_rows.form.setRowVisible(self.channel, stack is not None)
        self._describe()

    def _describe(self, *_: Any) -> None:
        """Say what the volume is, or why it cannot be segmented."""
        self.voxel_size = None
        if self.layer.value() is None:
            self.message.say("Open an image in the viewer, or choose files.")
        else:
            try:
                volume = volume_of(self.layer.value(), self.index)
                self.voxel_size = volume.voxel_size
                size = f"{sizes(volume.voxel_size)} µm" if volume.voxel_size else "unknown size"
                self.message.say(f"{sizes(volume.shape)} voxels of {size}")
            except DataError as error:
                self.message.say(str(error), error=True)
        self.valueChanged.emit()

    def _switch(self, *_: Any) -> None:
        self._layer_rows.setVisible(self.is_layer)
        self._file_rows.setVisible(not self.is_layer)
        self.valueChanged.emit()


class LayerBox(ComboBox):
    """Edits a layer of the viewer, or None; the layers that the plugin shows while training are not offered."""

    valueChanged = Signal()
    edited = Signal()
    """Array, scale, units or name of the chosen layer have changed; with labels, each stroke of the brush."""

    def __init__(
        self, viewer: Any, kind: Literal["image", "labels"], name: str, help_text: str, *, optional: bool = False
    ) -> None:
        super().__init__()
        self._viewer, self._kind = viewer, kind
        self.is_optional = optional
        self._layers: list[Any] = []
        self._watched: list[Any] = []  # events of the layer
        self.setAccessibleName(name)
        self.setToolTip(tooltip(help_text))
        self.currentIndexChanged.connect(self.valueChanged)
        self.valueChanged.connect(self._watch)
        self.reset_choices()

    def value(self) -> Any:
        return self._layers[self.currentIndex()] if self.currentIndex() >= 0 else None

    def setValue(self, layer: Any) -> None:
        """A layer that is not offered is passed over."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer))

    def choices(self) -> list[Any]:
        """The topmost first."""
        layers = reversed(self._viewer.layers)
        return [layer for layer in layers if layer._type_string == self._kind and not is_plugin_layer(layer)]

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        before = self.value()
        with QSignalBlocker(self):
            self._layers = [*([None] if self.is_optional else []), *self.choices()]
            self.clear()
            self.addItems(["-----" if layer is None else layer.name for layer in self._layers])
            self.setValue(before)
        if self.value() is not before:
            self.valueChanged.emit()

    def _watch(self) -> None:
        for event in self._watched:
            event.disconnect(self._note_edit)
        layer = self.value()
        names = ("data", "scale", "units", "name", *(["paint"] if self._kind == "labels" else []))
        self._watched = [getattr(layer.events, name) for name in names] if layer is not None else []
        for event in self._watched:
            event.connect(self._note_edit)

    def _note_edit(self, *_: Any) -> None:
        with suppress(RuntimeError):  # a layer outlives this box, of which Qt may have deleted its part already
            self.edited.emit()


_CHANNEL_NAMES = ("c", "channel", "channels", "ch")
_TIME_NAMES = ("t", "time", "timepoint")


@dataclass(frozen=True, slots=True)
class Stack:
    """The volumes of a layer that holds ``num``, along ``axis`` of its array: channels or time points, by ``name``."""

    axis: int
    num: int
    name: str


def stack_of(layer: Any) -> Stack | None:
    """The axis of channels (or time points) of a layer with four axes; None for a single volume.

    By its label where the layer names it, else the shorter one of the first two: channels come first or second.
    Raises :class:`DataError` for what cannot be segmented.
    """
    shape = full_resolution(layer).shape
    if getattr(layer, "rgb", False):
        raise DataError(f"{layer.name}: is a colour (RGB) image. Split its channels (right click ▸ Split RGB).")
    if sum(length > 1 for length in shape) < 3:
        raise DataError(
            f"{layer.name}: is a 2D layer ({sizes(shape)}). The model segments volumes: choose a layer that holds a "
            "stack of planes."
        )
    if len(shape) > 4:
        raise DataError(
            f"{layer.name}: has {len(shape)} axes ({sizes(shape)}), and at most four can be used (channel, z, y, x). "
            "Take a part of it (right click ▸ Split Stack)."
        )
    if len(shape) == 3:
        return None
    labels = [str(label).casefold() for label in layer.axis_labels]
    named = (axis for axis, label in enumerate(labels) if label in (*_CHANNEL_NAMES, *_TIME_NAMES))
    axis = next(named, 0 if shape[0] <= shape[1] else 1)
    return Stack(axis, shape[axis], "time point" if labels[axis] in _TIME_NAMES else "channel")


def volume_of(layer: Any, index: int = 0) -> ArrayVolume:
    """The volume of a layer, or the one at ``index`` of its :func:`stack_of`; nothing is read. Raises ``DataError``."""
    stack = stack_of(layer)
    if stack is None:
        return ArrayVolume(layer.name, full_resolution(layer), voxel_size_of(layer))
    units = [unit for axis, unit in enumerate(layer.units) if axis != stack.axis]
    calibration = SimpleNamespace(scale=np.delete(layer.scale, stack.axis), units=units)
    axes = "ZYX"[: stack.axis] + "C" + "ZYX"[stack.axis :]
    return ArrayVolume(layer.name, full_resolution(layer), voxel_size_of(calibration), axes=axes, channel=index)


Place = tuple[dict[str, Any], tuple[int, ...]]
"""Where a result belongs: the keywords of its layer, and axes of length one that the layer of the image has in its
midst, for ``numpy.expand_dims``."""


def place_of(layer: Any, index: int = 0) -> Place:
    """Scale, position and units of a result on ``layer``. Raises ``DataError``."""
    stack = stack_of(layer)
    options = {name: tuple(getattr(layer, name)) for name in ("scale", "translate", "units")}
    if stack is None:
        return options | {"rotate": layer.rotate, "shear": layer.shear}, ()
    if stack.axis == 0 and stack.name == "channel":
        return {name: value[1:] for name, value in options.items()}, ()
    # It stands at its own channel or time point; the slider finds it there.
    translate = np.array(layer.translate, float)
    translate[stack.axis] += index * layer.scale[stack.axis]
    return options | {"translate": tuple(translate)}, (stack.axis,)
