"""What to segment: a layer of the viewer, or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QRadioButton, QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import PathEdit
from napari_celltrain.widgets.forms.rows import FieldRows, Fold
from napari_celltrain.widgets.segment.layers import LayerBox, Place, place_of, stack_of, volume_of
from napari_celltrain.widgets.segment.model_panel import um
from napari_celltrain.widgets.theme import plain_label, theme_color

Source = Literal["layer", "files"]

_FILE_FIELDS = ("data.channel", "data.voxel_size", "data.axes")
_EVENTS = ("data", "scale", "units", "name")


class InputPanel(QWidget):
    """Edits the source, and for each source what of it."""

    valueChanged = Signal()
    sourceChanged = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._watched: Any = None
        self._wanted_channel: int | None = None
        self.layer_button = QRadioButton("A layer")
        self.files_button = QRadioButton("Files")
        self.layer = LayerBox(viewer, "image", "Image layer to segment", "An image layer that holds a volume")
        self.channel = ComboBox()
        self.channel.setAccessibleName("Channel")
        self.message = plain_label()
        self.message.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.images = PathEdit("either", history="segment.images", placeholder="File or folder, or drop it here")
        self.output = PathEdit("folder", history="segment.output", placeholder="Folder, or drop it here")
        self.file_rows = FieldRows(_FILE_FIELDS)
        self.more = Fold("More about the files", self.file_rows)
        self._lay_out()
        self._connect()
        self.layer_button.setChecked(True)
        self._show_rows()
        self._choose_layer()

    # --- the value ------------------------------------------------------------------------------------------------

    def source(self) -> Source:
        return "layer" if self.layer_button.isChecked() else "files"

    def set_source(self, source: Source) -> None:
        (self.layer_button if source == "layer" else self.files_button).setChecked(True)

    @property
    def index(self) -> int:
        """The channel, or time point, of the layer, count from 0."""
        return max(0, self.channel.currentIndex())

    def volume(self) -> ArrayVolume:
        """The layer's, of which nothing has been read. Raises :class:`DataError`."""
        if self.layer.value() is None:
            raise DataError("No image layer is open. Open an image in the viewer, then choose its layer.")
        return volume_of(self.layer.value(), self.index)

    def place(self) -> Place:
        """Where the result belongs. Raises :class:`DataError`."""
        return place_of(self.layer.value(), self.index)

    def voxel_size(self) -> Spacing | None:
        """Of the layer; None where it is not known."""
        try:
            return self.volume().voxel_size
        except DataError:
            return None

    def files(self) -> tuple[Path, Path]:
        """What to segment, and the folder for the results. Raises :class:`DataError` and marks what is missing."""
        images, output = self.images.value(), self.output.value()
        self.images.set_problem(None if images else "Choose a file, or a folder of files.")
        self.output.set_problem(None if output else "Choose a folder for the results.")
        if images is None:
            raise DataError("No images are chosen. Choose a file or a folder, or drop it on the field.")
        if output is None:
            raise DataError("No folder for the results is chosen. Choose one, or drop it on the field.")
        return images, output

    def file_options(self) -> dict[str, Any]:
        """``channel``, ``voxel_size`` and ``axes`` of the files, None where they tell themselves."""
        return self.file_rows.values()

    def set_channel(self, channel: int | None) -> None:
        """The channel that the model was trained on: of a layer with several it is chosen by itself."""
        self._wanted_channel = channel
        if channel is not None and channel < self.channel.count():
            self.channel.setCurrentIndex(channel)

    def reset_choices(self, *_: Any) -> None:
        self.layer.reset_choices()

    # --- inside ----------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Listen to no layer any more: the layers outlive this panel."""
        self._watch(None)

    def _choose_layer(self) -> None:
        self._watch(self.layer.value())
        self._fill_channels()
        self._touch()

    def _watch(self, layer: Any) -> None:
        before, self._watched = self._watched, layer
        for name in _EVENTS:
            if before is not None and hasattr(before.events, name):
                getattr(before.events, name).disconnect(self._touch)
            if layer is not None and hasattr(layer.events, name):
                getattr(layer.events, name).connect(self._touch)

    def _touch(self, *_: Any) -> None:
        self._describe()
        self.valueChanged.emit()

    def _fill_channels(self) -> None:
        layer = self.layer.value()
        try:
            stack = stack_of(layer) if layer is not None else None
        except DataError:
            stack = None
        with QSignalBlocker(self.channel):
            self.channel.clear()
            for index in range(stack.num if stack else 0):
                self.channel.addItem(f"{stack.name} {index}" if stack else "")
            wanted = self._wanted_channel
            if wanted is not None and wanted < self.channel.count():
                self.channel.setCurrentIndex(wanted)
        self._form.setRowVisible(self.channel, stack is not None and self.source() == "layer")

    def _describe(self) -> None:
        problem = False
        text = "Open an image in the viewer, or choose files."
        try:
            if self.layer.value() is not None:
                volume = self.volume()
                size = f"of {um(volume.voxel_size)}" if volume.voxel_size else "of unknown size"
                text = f"{' × '.join(map(str, volume.shape))} voxels {size}"
        except DataError as error:
            text, problem = str(error), True
        self.message.setText(text)
        style = f"color: {theme_color('error').name()}" if problem else ""
        if self.message.styleSheet() != style:
            self.message.setStyleSheet(style)

    def _show_rows(self) -> None:
        layer = self.source() == "layer"
        of_layer: tuple[QWidget, ...] = (self.layer, self.message)
        of_files: tuple[QWidget, ...] = (self.images, self.output, self.more)
        for widgets, are_shown in ((of_layer, layer), (of_files, not layer)):
            for widget in widgets:
                self._form.setRowVisible(widget, are_shown)
        self._form.setRowVisible(self.channel, layer and self.channel.count() > 0)

    def _switch(self, checked: bool) -> None:
        if checked:
            self._show_rows()
            self.sourceChanged.emit()
            self.valueChanged.emit()

    def _lay_out(self) -> None:
        group = QButtonGroup(self)
        buttons = QHBoxLayout()
        for button in (self.layer_button, self.files_button):
            group.addButton(button)
            buttons.addWidget(button)
        buttons.addStretch(1)
        rows = FieldRows()
        self._form = rows.form
        for text, widget in (("Layer", self.layer), ("Channel", self.channel)):
            self._add(text, widget, widget)
        self._form.addRow(self.message)
        self._add("Images", self.images, self.images)
        self._add("Results", self.output, self.output)
        self.images.setToolTip("A TIFF file, an OME-Zarr folder, or a folder with any number of them.")
        self.output.setToolTip("Folder for the labels, one file for each volume.")
        self._form.addRow(self.more)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(buttons)
        layout.addWidget(rows)

    def _add(self, text: str, widget: QWidget, buddy: QWidget) -> None:
        label = QLabel(text)
        label.setBuddy(buddy)
        if isinstance(widget, PathEdit):
            widget.set_accessible_name(text)
        self._form.addRow(label, widget)

    def _connect(self) -> None:
        self.layer_button.toggled.connect(self._switch)
        self.files_button.toggled.connect(self._switch)
        self.layer.valueChanged.connect(self._choose_layer)
        self.channel.currentIndexChanged.connect(self._touch)
        for editor in (self.images, self.output, self.file_rows):
            editor.valueChanged.connect(self._tell)

    def _tell(self) -> None:
        for editor in (self.images, self.output):
            if editor.value() is not None:
                editor.set_problem(None)
        self.valueChanged.emit()
