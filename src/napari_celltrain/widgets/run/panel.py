"""The run in the widget: a button that starts and stops it, its progress and log, and what can be done at its end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from napari import Viewer
from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QSpinBox, QVBoxLayout, QWidget
from superqt import QFlowLayout

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import Event, Finished
from napari_celltrain.widgets.forms.rows import TabPage
from napari_celltrain.widgets.layers import add_layer
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.responsive import drawn_once
from napari_celltrain.widgets.run.controller import RunController, errors_shown
from napari_celltrain.widgets.run.progress import RunLog, RunProgress
from napari_celltrain.widgets.run.shown import PredictionLayers
from napari_celltrain.widgets.segment.input_panel import LayerBox, place_of, volume_of
from napari_celltrain.widgets.segment.parts import RunRow
from napari_celltrain.widgets.segment.work import Result, segment_volume
from napari_celltrain.widgets.theme import button, fill, plain_label, tooltip

_STATES = {"idle": "", "preparing": "Preparing …", "stopping": "Stopping after the next validation …"}
_TIPS = {
    "Start": "Check all settings and start training (Ctrl+Return)",
    "Stop": "Train on to the next validation, keep the best model, and end (Ctrl+Return)",
    "Stop now": "Validate after the current batch, keep the best model, and end (Ctrl+Return)",
    "Stopping …": "The run is validated and saved",
}


class RunPanel(QWidget):
    """Shows the controller's run. Starting needs the settings: ``startRequested`` asks their owner for it."""

    startRequested = Signal()
    settingsRequested = Signal()
    """The settings of the run shown are wanted in the form again."""

    def __init__(self, viewer: Viewer, controller: RunController) -> None:
        super().__init__()
        self._controller = controller
        self._is_checking = False
        self.button = button("Start", "", self.press)
        self.button.setMinimumWidth(90)
        self.state = plain_label()
        self.state.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        help_text = "Open the folder of a run that goes on elsewhere, or that has ended"
        self.watch_button = button("Watch a run…", help_text, self._press_watch)
        self.progress = RunProgress()
        self.message = plain_label()
        self.log = RunLog()
        self.end_row = EndRow(controller)
        self.segment_row = SegmentRow(viewer)
        self.predictions = PredictionLayers(viewer)
        head = fill(QHBoxLayout(), self.button, self.state, self.watch_button)
        head.setStretchFactor(self.state, 1)
        for push_button in (self.button, self.watch_button):
            head.setAlignment(push_button, Qt.AlignmentFlag.AlignVCenter)
        self.scroll_area = TabPage()  # what does not fit a low window is scrolled to, and never cut
        parts = (self.progress, self.message, self.end_row, self.segment_row, self.predictions, self.log)
        fill(self.scroll_area.column, *parts, spacing=4).setStretchFactor(self.log, 1)
        layout = fill(QVBoxLayout(self), head, self.scroll_area, spacing=4)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.setStretchFactor(self.scroll_area, 1)
        self.end_row.settings_button.clicked.connect(self.settingsRequested)
        controller.stateChanged.connect(self._renew)
        controller.eventsReceived.connect(self._add)
        self._renew()
        if controller.is_busy:
            self.progress.begin()
        if controller.events:  # which happened before this panel was there
            self._add(controller.events)

    @property
    def has_run(self) -> bool:
        """Whether there is anything to show of a run."""
        return self._controller.is_busy or bool(self._controller.events)

    def wanted_height(self) -> int:
        """At which nothing has to be scrolled."""
        content = self.scroll_area.page
        for layout in (self.layout(), content.layout()):
            assert layout is not None
            layout.activate()  # with what has just been shown or hidden
        return self.height() - self.scroll_area.height() + content.heightForWidth(self.scroll_area.width())

    def press(self) -> None:
        """What the button does: start, stop, stop now."""
        if self.button.isEnabled():
            if self._controller.is_busy:
                self._controller.stop()
            else:
                self.startRequested.emit()

    def set_checking(self, checking: bool = False) -> None:
        """Whether settings and data are being made ready for a start."""
        self._is_checking = checking
        self._renew()

    def watch(self, path: Path) -> None:
        """Show the run in ``path``, going on or ended."""
        with errors_shown():
            self._controller.watch(RunFolder.open(path))

    def _add(self, events: tuple[Event, ...]) -> None:
        folder = self._controller.folder
        with drawn_once(self):
            self.log.folder = folder
            self.log.addEvents(events)
            self.progress.addEvents(events)
            self.predictions.add_events(events, folder)

    def _renew(self) -> None:
        """All that follows from the state of the run."""
        controller = self._controller
        if controller.state == "preparing" and not controller.events:
            self.progress.begin()
            self.log.clear()
            self.predictions.forget()
        # only now: taking layers away lets Qt's events through, and with them the end of a run that failed at once
        busy = controller.is_busy
        stops = {None: "Stop", "stop": "Stop now", "stop-now": "Stopping …"}
        text = stops[controller.stop_request] if busy else "Start"
        self.button.setText(text)
        self.button.setToolTip(tooltip(_TIPS[text]))
        self.button.setEnabled(text != "Stopping …" and not self._is_checking)
        self.state.setText(self._state_text())
        self.watch_button.setText("Stop watching" if busy and controller.watching else "Watch a run…")
        self.watch_button.setEnabled(not controller.is_training and not self._is_checking)
        self.message.setText(controller.message)
        self.message.setVisible(bool(controller.message))
        for widget in (self.progress, self.log, self.scroll_area):
            widget.setVisible(self.has_run)
        if not busy:
            self.progress.end()
        folder = controller.folder
        ended = not busy and folder is not None and folder.path.is_dir()
        model = folder.path if ended and folder is not None and (folder.model / "model.yaml").is_file() else None
        self.end_row.setVisible(ended)
        self.segment_row.setVisible(model is not None)
        self.segment_row.setModel(model)
        if ended:
            self.end_row.renew()

    def _state_text(self) -> str:
        controller = self._controller
        if self._is_checking:
            return "Checking …"
        text = _STATES.get(controller.state, controller.state.capitalize())
        outcome = controller.outcome
        if controller.state == "finished" and isinstance(outcome, Finished) and outcome.reason.startswith("stopped"):
            text = f"Stopped at epoch {outcome.epoch}"
        if controller.stop_request == "stop-now" and controller.is_busy:
            text = "Stopping now …"
        if controller.watching and controller.state != "idle":
            text = f"Watching: {text.lower()}"
        return text

    def _press_watch(self) -> None:
        if self._controller.is_busy:
            self._controller.leave()
            return
        start = self._controller.folder.path.parent if self._controller.folder is not None else Path.home()
        chosen = QFileDialog.getExistingDirectory(self, "Watch a run: choose its folder", str(start))
        if chosen:
            self.watch(Path(chosen))


class EndRow(QWidget):
    """Open the folder of a run that has ended, take its settings, or train on."""

    def __init__(self, controller: RunController) -> None:
        super().__init__()
        self._controller = controller
        self._planned: int | None = None
        self.open_button = button("Open results folder", "", self._open_folder)
        self.settings_button = QPushButton("Use these settings again")
        help_text = "Train on from the last saved state, or from the beginning where none was saved yet"
        self.resume_button = button("Resume", help_text, self._resume)
        self.epochs = QSpinBox()
        self.epochs.setAccessibleName("Last epoch of the resumed run")
        training_on = QWidget()
        fill(QHBoxLayout(training_on), self.resume_button, QLabel("until epoch"), self.epochs)
        layout = QFlowLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.open_button, self.settings_button, training_on):
            layout.addWidget(widget)

    def renew(self) -> None:
        """A run that has done all its epochs is offered twice as many."""
        config, history = self._controller.config, self._controller.history()
        done = history.finished.epoch if history.finished is not None else history.rows[-1].epoch if history.rows else 0
        asked = history.started or (config.training if config is not None else None)
        self._planned = asked.epochs if asked is not None else None
        planned = self._planned or 1
        self.epochs.setRange(min(done + 1, 100_000), 100_000)
        self.epochs.setValue(planned if done < planned else 2 * planned)
        self.settings_button.setEnabled(config is not None)
        self.resume_button.setEnabled(history.started is not None)

    def _open_folder(self) -> None:
        if self._controller.folder is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._controller.folder.path.absolute())))

    def _resume(self) -> None:
        if self._controller.folder is not None:
            epochs = self.epochs.value() if self.epochs.value() != self._planned else None
            with errors_shown():
                self._controller.resume(self._controller.folder, epochs, preferences().own_process)


class SegmentRow(QWidget):
    """Segments a layer with the model of the run. The widget for segmentation has more options."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._model: Path | None = None
        help_text = "Add a labels layer with what the best model of this run finds in the layer"
        self.run = RunRow("Segment a layer with this model", help_text, "Segmenting", self._start)
        self.layer = LayerBox(viewer, "image", "Layer to segment", "An image layer that holds a volume")
        fill(QVBoxLayout(self), self.run, self.layer, spacing=2)
        self.layer.valueChanged.connect(self._renew)
        self._renew()

    def setModel(self, folder: Path | None) -> None:
        """The run folder or model folder whose model is used."""
        self._model = folder
        self._renew()

    def _renew(self) -> None:
        self.run.set_possible(self._model is not None and self.layer.value() is not None)

    def _start(self) -> None:
        layer = self.layer.value()
        if layer is None or self._model is None:
            return
        volume, (options, axes) = volume_of(layer), place_of(layer)

        def show(result: Result) -> None:
            labels, name = np.expand_dims(result.labels, axes), f"{layer.name} segmentation"
            add_layer(self._viewer, "labels", labels, name=name, **options)

        self.run.start(partial(segment_volume, model=self._model, image=volume), show)
