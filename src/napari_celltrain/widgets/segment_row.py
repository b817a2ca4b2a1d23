"""Segment a layer of the viewer with a trained model, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import create_widget
from napari.qt.threading import FunctionWorker, create_worker
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.data.arrays import ArrayVolume
from napari_celltrain.errors import CellTrainError, DataError
from napari_celltrain.widgets.focus_frame import FocusFrame
from napari_celltrain.widgets.layer_source import full_resolution, is_own, voxel_size_of
from napari_celltrain.widgets.plain_text import tooltip
from napari_celltrain.widgets.run_sources import failure, spare_cores
from napari_celltrain.widgets.switching import quick_switching

if TYPE_CHECKING:
    from napari import Viewer

_TELL_SECONDS = 0.1
_TEXT = "Segment a layer with this model"


@dataclass(frozen=True, slots=True)
class _Task:
    """What the worker needs; it sees no layer."""

    model: Path
    image: ArrayVolume
    tell: Callable[[int, int], None]
    """Called with (done, total)."""
    cancelled: threading.Event = field(default_factory=threading.Event)


class SegmentRow(QWidget):
    """Which layer, a button that segments or cancels, and how far it is."""

    _progressed = Signal(int, int)

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._model: Path | None = None
        self._task: _Task | None = None
        self._target: tuple[str, dict[str, Any]] = ("", {})
        self._worker: Any = None
        self.layer: Any = create_widget(
            annotation="napari.layers.Image", options={"nullable": False, "choices": self._choices}
        )
        self.layer.native.setMinimumWidth(60)
        self.layer.native.setAccessibleName("Layer to segment")
        self.button = QPushButton(_TEXT)
        self.button.setToolTip(tooltip("Add a labels layer with what the best model of this run finds in the layer"))
        self.button.clicked.connect(self._press)
        self.progress = QProgressBar()
        self.progress.hide()
        row = QHBoxLayout()
        row.addWidget(FocusFrame.around(self.button))
        row.addWidget(FocusFrame.around(self.layer.native), 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        self._progressed.connect(self._show_progress)
        self._renew()

    def setModel(self, folder: Path | None) -> None:
        """The run folder or model folder whose model is used."""
        self._model = folder
        self._renew()

    def reset_choices(self, *_: Any) -> None:
        self.layer.reset_choices()
        self._renew()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancelled.set()
            self.button.setEnabled(False)

    def _choices(self, *_: Any) -> list[Any]:
        return [layer for layer in reversed(self._viewer.layers) if layer._type_string == "image" and not is_own(layer)]

    def _renew(self) -> None:
        if self._task is None:
            self.button.setEnabled(self._model is not None and self.layer.value is not None)

    def _press(self) -> None:
        if self._task is not None:
            self.cancel()
        else:
            self._start()

    def _start(self) -> None:
        layer = self.layer.value
        if layer is None or self._model is None:
            return
        try:
            self._task = _Task(self._model, _volume_of(layer), self._progressed.emit)
        except CellTrainError as error:
            show_error(str(error))
            return
        self._target = (f"{layer.name} segmentation", _position_of(layer))
        self._worker = create_worker(_segment, self._task, _start_thread=False, _worker_class=_Worker)
        self._worker.task = self._task
        self._worker.returned.connect(self._show_result)
        self._worker.finished.connect(self._end)
        self._worker.start()
        self.button.setText("Cancel")
        self.progress.setMaximum(0)
        self.progress.setFormat("Loading the model …")
        self.progress.show()

    def _show_progress(self, done: int, total: int) -> None:
        self.progress.setFormat("%p %")
        self.progress.setMaximum(total)
        self.progress.setValue(min(done, total))

    def _show_result(self, result: Any) -> None:
        if isinstance(result, str):
            show_error(result)
        elif result is not None and self._task is not None and not self._task.cancelled.is_set():
            name, position = self._target
            self._viewer.add_labels(result, name=name, **position)

    def _end(self) -> None:
        self._task = self._worker = None
        self.progress.hide()
        self.button.setText(_TEXT)
        self._renew()


class _Worker(FunctionWorker):  # type: ignore[misc]  # napari is untyped
    task: _Task

    def quit(self) -> None:
        """napari is being closed."""
        self.task.cancelled.set()


def _volume_of(layer: Any) -> ArrayVolume:
    """Raises :class:`DataError` for what cannot be segmented."""
    array = full_resolution(layer)
    if getattr(layer, "rgb", False):
        raise DataError(f"{layer.name}: is a colour (RGB) image. Split its channels (right click ▸ Split RGB).")
    if len(array.shape) != 3:
        raise DataError(
            f"{layer.name}: has {len(array.shape)} axes, and a volume has three (z, y, x). Choose another layer, or "
            "take one volume of it (right click ▸ Split Stack)."
        )
    return ArrayVolume(layer.name, array, voxel_size_of(layer))


def _position_of(layer: Any) -> dict[str, Any]:
    position = {"scale": layer.scale, "translate": layer.translate, "rotate": layer.rotate, "shear": layer.shear}
    return position | ({"units": layer.units} if hasattr(layer, "units") else {})


def _segment(task: _Task) -> NDArray[Any] | str | None:
    """The labels; the text of what went wrong; or None where it was cancelled."""
    try:
        with quick_switching():  # torch may have to be imported
            return _labels_of(task)
    except Exception as error:
        return failure(error, "Segmenting").message


def _labels_of(task: _Task) -> NDArray[Any] | None:
    from napari_celltrain.engine.device import resolve_device, set_threads
    from napari_celltrain.parts.normalization import measure
    from napari_celltrain.runs.model_file import load_model
    from napari_celltrain.runs.prediction import refuse_other_scale
    from napari_celltrain.runs.segmentation import segment

    set_threads(spare_cores())
    model = load_model(task.model, resolve_device("auto"))
    refuse_other_scale(task.image, model.card)
    image = task.image.read()
    statistics = measure(image, model.card.normalization, name=task.image.name)
    windows = _num_batches(image.shape, model.card.window, model.card.batch_size)
    result = segment(model, image, statistics, cancelled=_Teller(task, windows))
    return None if task.cancelled.is_set() else result.labels


def _num_batches(shape: tuple[int, ...], window: tuple[int, int, int], batch_size: int) -> int:
    from napari_celltrain.engine.inference import window_starts

    rows, *plane = (len(window_starts(length, size)) for length, size in zip(shape, window, strict=True))
    return rows * -(-plane[0] * plane[1] // batch_size)


class _Teller:
    """Asked before every batch of windows whether to go on, it also knows how far the work is."""

    def __init__(self, task: _Task, total: int) -> None:
        self._task = task
        self._total = total
        self._done = 0
        self._told = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._task.tell(self._done, self._total)
        self._done += 1
        return self._task.cancelled.is_set()
