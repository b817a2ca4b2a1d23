"""What is measured of every object: into the layer's features, a table to look around with, and a CSV."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.segment.layers import LayerBox, jump_to, stack_of, volume_of
from napari_celltrain.widgets.segment.object_table import ObjectTable
from napari_celltrain.widgets.segment.run_row import RunRow
from napari_celltrain.widgets.theme import tooltip

if TYPE_CHECKING:
    from napari import Viewer

Columns = dict[str, NDArray[Any]]


class MeasurePanel(QWidget):
    """A labels layer in, and an image layer where intensities are wanted; a row for each object out."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Any = None  # a weak reference: a layer that the user removes is let go of
        self._centres: NDArray[np.float64] = np.zeros((0, 3))
        self.columns: Columns = {}
        self.labels = LayerBox(viewer, "labels", "Layer of labels to measure", "Labels whose objects are measured")
        self.image = LayerBox(
            viewer, "image", "Layer of intensities", "Image whose intensities are measured, or none", optional=True
        )
        self.run = RunRow("Measure", "Measure every object, and keep the table in the layer's features")
        self.table = ObjectTable("What was measured of each object")
        self.save_button = QPushButton("Save CSV…")
        self.save_button.setToolTip(tooltip("Write the table to a file that spreadsheets and pandas read"))
        self._work = Background("Measuring", self)
        self._lay_out()
        self._connect()
        self._show({})
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed."""
        self.labels.reset_choices()
        self.image.reset_choices()
        self._renew()

    def propose(self, labels: Any, image: Any) -> None:
        """What was segmented last is likely to be measured next."""
        self.labels.setValue(labels)
        if self.image.has(image):
            self.image.setValue(image)

    def measure(self) -> None:
        layer = self.labels.value()
        try:
            labels, images = volume_of(layer), _channels(self.image.value())
        except CellTrainError as error:
            self.run.say(str(error), wrong=True)
            return
        self._layer = weakref.ref(layer)
        self._show({})
        self.run.begin("Measuring")
        self._work.start(lambda job: measure(labels, images))

    def save(self) -> None:
        layer = self._layer() if self._layer is not None else None
        name = "objects.csv" if layer is None else f"{layer.name}.csv"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the table", str(Path.home() / name), "CSV (*.csv)")
        if chosen:
            self.save_to(Path(chosen))

    def save_to(self, path: Path) -> None:
        from napari_celltrain.values.files import write_table

        try:
            write_table(path, list(self.columns), zip(*self.columns.values(), strict=True))
        except CellTrainError as error:
            show_error(str(error))
            return
        show_info(f"The table of {count(len(self._centres), 'object')} is in {path}.")

    def _take(self, found: tuple[Columns, NDArray[np.float64]]) -> None:
        columns, self._centres = found
        layer = self._layer() if self._layer is not None else None
        if layer is not None:
            layer.features = {"index": columns["label"]} | columns
        self._show(columns)
        self.run.say(f"{count(len(self._centres), 'object')} measured; the table is also in the layer's features.")

    def _fail(self, message: str) -> None:
        self.run.say(message, wrong=True)

    def _show(self, columns: Columns) -> None:
        self.columns = columns
        self.table.set_columns(columns)
        self.save_button.setVisible(bool(columns))

    def _jump(self, row: int) -> None:
        layer = self._layer() if self._layer is not None else None
        if layer is not None:
            jump_to(self._viewer, layer, int(self.columns["label"][row]), self._centres[row])

    def _renew(self) -> None:
        self.run.set_possible(self.labels.value() is not None)

    def _lay_out(self) -> None:
        rows = FieldRows()
        for text, box in (("Labels", self.labels), ("Image", self.image)):
            label = QLabel(text)
            label.setBuddy(box)
            rows.form.addRow(label, box)
        buttons = QHBoxLayout()
        buttons.addWidget(self.save_button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (rows, self.run, self.table):
            layout.addWidget(widget)
        layout.addLayout(buttons)

    def _connect(self) -> None:
        self.run.started.connect(self.measure)
        self.run.cancelled.connect(self._work.cancel)
        self._work.progressed.connect(self.run.show_progress)
        self._work.answered.connect(self._take)
        self._work.failed.connect(self._fail)
        self._work.ended.connect(self.run.end)
        self.table.picked.connect(self._jump)
        self.save_button.clicked.connect(self.save)
        self.labels.valueChanged.connect(self._renew)


def measure(
    labels: ArrayVolume, images: list[ArrayVolume]
) -> Generator[tuple[int, int, str], None, tuple[Columns, NDArray[np.float64]]]:
    """The columns, and the middle of each object in voxels (z, y, x); in a worker thread."""
    from napari_celltrain.data.measure import measuring
    from napari_celltrain.data.overlaps import find_objects

    for image in images:
        if image.shape != labels.shape:
            sizes = [" × ".join(map(str, volume.shape)) for volume in (image, labels)]
            raise DataError(
                f"{image.name}: has another shape ({sizes[0]}) than the labels ({sizes[1]}). Choose the image that "
                "the labels are of, or none."
            )
    importlib.import_module("pandas")  # the layer's features need it, and the window should not wait for it
    size = labels.voxel_size or next((image.voxel_size for image in images), None)
    steps = measuring(labels.lazy(), [image.lazy() for image in images] or None, size)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as finished:
            return finished.value, find_objects(labels.lazy()).centres
        yield done, total, "Measuring"


def _channels(layer: Any) -> list[ArrayVolume]:
    """Every channel of an image layer."""
    if layer is None:
        return []
    stack = stack_of(layer)
    return [volume_of(layer, index) for index in range(stack.num if stack else 1)]
