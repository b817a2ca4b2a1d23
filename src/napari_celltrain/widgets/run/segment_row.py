"""Segment a layer of the viewer with the model of a run, in the background."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.layers import add_layer
from napari_celltrain.widgets.segment.input_panel import LayerBox, Place, place_of, volume_of
from napari_celltrain.widgets.segment.work import LOADING, Result, segment_volume
from napari_celltrain.widgets.theme import tooltip

if TYPE_CHECKING:
    from napari import Viewer

_TEXT = "Segment a layer with this model"


class SegmentRow(QWidget):
    """Which layer, a button that segments or cancels, and how far it is. The widget of its own knows more ways."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._model: Path | None = None
        self._target: tuple[str, Place] | None = None
        self._work = Background("Segmenting", self)
        self.layer = LayerBox(viewer, "image", "Layer to segment", "An image layer that holds a volume")
        self.button = QPushButton(_TEXT)
        self.button.setToolTip(tooltip("Add a labels layer with what the best model of this run finds in the layer"))
        self.progress = QProgressBar()
        self.progress.hide()
        row = QHBoxLayout()
        row.addWidget(self.button)
        row.addWidget(self.layer, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        self.button.clicked.connect(self._press)
        self.layer.valueChanged.connect(self._renew)
        self._work.progressed.connect(self._show_progress)
        self._work.answered.connect(self._show_result)
        self._work.failed.connect(show_error)
        self._work.ended.connect(self._end)
        self._renew()

    def setModel(self, folder: Path | None) -> None:
        """The run folder or model folder whose model is used."""
        self._model = folder
        self._renew()

    def reset_choices(self, *_: Any) -> None:
        self.layer.reset_choices()
        self._renew()

    def cancel(self) -> None:
        if self._work.is_busy:
            self._work.cancel()
            self.button.setEnabled(False)

    def _renew(self) -> None:
        if not self._work.is_busy:
            self.button.setEnabled(self._model is not None and self.layer.value() is not None)

    def _press(self) -> None:
        if self._work.is_busy:
            self.cancel()
        else:
            self._start()

    def _start(self) -> None:
        layer = self.layer.value()
        if layer is None or self._model is None:
            return
        try:
            volume, place = volume_of(layer), place_of(layer)
        except CellTrainError as error:
            show_error(str(error))
            return
        self._target = (f"{layer.name} segmentation", place)
        self.button.setText("Cancel")
        self._show_progress(0, 0, LOADING)
        self.progress.show()
        self._work.start(partial(segment_volume, model=self._model, image=volume))

    def _show_progress(self, done: int, total: int, text: str) -> None:
        self.progress.setFormat("%p %" if total else f"{text} …")
        self.progress.setMaximum(total)
        self.progress.setValue(min(done, total))

    def _show_result(self, result: Result | None) -> None:
        if result is not None and self._target is not None:
            name, place = self._target
            add_layer(self._viewer, "labels", place.shaped(result.labels), name=name, **place.options)

    def _end(self) -> None:
        self.progress.hide()
        self.button.setText(_TEXT)
        self._renew()
