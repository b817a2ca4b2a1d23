"""The dock widget "Segment with a trained model"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_warning
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut, QShowEvent
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_celltrain.predict.process import PredictRequest
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.focus import FocusRing
from napari_celltrain.widgets.forms.rows import Fold
from napari_celltrain.widgets.layers import full_resolution
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.segment.files import FileList, Written, segment_files
from napari_celltrain.widgets.segment.input_panel import InputPanel
from napari_celltrain.widgets.segment.layer_segmenter import LayerSegmenter
from napari_celltrain.widgets.segment.measure_panel import MeasurePanel
from napari_celltrain.widgets.segment.model_panel import ModelPanel
from napari_celltrain.widgets.segment.options_panel import OptionsPanel
from napari_celltrain.widgets.segment.run_row import RunRow
from napari_celltrain.widgets.segment.scores_panel import ScoresPanel

if TYPE_CHECKING:
    from napari import Viewer


class SegmentWidget(QWidget):
    """What the manifest names: a model, what to segment, and below it what came of it."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model = ModelPanel()
        self.input = InputPanel(napari_viewer)
        self.options = OptionsPanel()
        self.options_fold = Fold("Options", self.options)
        self.run = RunRow("Segment", "Find the cells with the chosen model (Ctrl+Return)")
        self.files = FileList(napari_viewer)
        self.scores = ScoresPanel(napari_viewer)
        self.scores_fold = Fold("Scores: compare with true labels", self.scores)
        self.measure = MeasurePanel(napari_viewer)
        self.measure_fold = Fold("Measure objects", self.measure)
        self.layers = LayerSegmenter(napari_viewer, self)
        self._file_work = Background("Segmenting", self)
        self._ring = FocusRing(self)
        self._lay_out()
        self._connect()
        self._use_preferences()
        self._renew()

    def reset_choices(self, *_: object) -> None:
        """The layers of the viewer have changed (napari connects this by its name)."""
        self.input.reset_choices()
        self.scores.reset_choices()
        self.measure.reset_choices()

    def setModel(self, path: Path) -> None:
        """Choose the model of a run folder, as the training widget does at the end of a run."""
        self.model.setValue(path)

    # --- running ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        model = self.model.value()
        if model is None or self.model.card is None:
            return
        self.run.begin("Starting")
        try:
            if self.input.source() == "layer":
                self.layers.start(model, self.model.name, self.input, self.options.value())
            else:
                self._start_files(model)
        except CellTrainError as error:
            self._refuse(error)

    def apply(self) -> None:
        """Objects anew from what the network said before."""
        self.run.begin("Telling objects apart")
        try:
            self.layers.decode_again(self.model.name, self.input, self.options.value())
        except CellTrainError as error:
            self._refuse(error)

    def _refuse(self, error: CellTrainError) -> None:
        self.run.end()
        self.run.say(str(error), wrong=True)

    def _start_files(self, model: Path) -> None:
        images, output = self.input.files()
        given, options = self.input.file_options(), self.options.value()
        tuned = self.options.is_as_tuned
        request = PredictRequest(
            model,
            (images,),
            output,
            device=options.device,
            probabilities=options.probabilities,
            resample=options.resample,
            threshold=None if tuned else options.threshold,
            decoding=None if tuned else options.decoding,
            **given,
        )
        channel = given["channel"] if given["channel"] is not None else self.model.card and self.model.card.channel
        self.files.begin(DataConfig(**(given | {"channel": channel})))
        self._file_work.start(lambda job: segment_files(job, request))

    def _cancel(self) -> None:
        self.layers.cancel()
        self._file_work.cancel()

    def _note(self, noted: Written | str) -> None:
        if isinstance(noted, Written):
            self.files.add(noted)
        else:
            show_warning(noted)

    def _show_result(self, layer: Any) -> None:
        self.run.say(self.layers.summary)
        self.scores.propose(layer)
        self.measure.propose(layer, self.input.layer.value())
        self._renew()

    def _show_written(self, num_written: int) -> None:
        self.run.say(f"{count(num_written, 'volume')} segmented, in {self.input.output.value()}.")

    def _show_failure(self, message: str) -> None:
        self.run.say(message, wrong=True)

    # --- how the parts depend on each other -----------------------------------------------------------------------

    def _take_card(self) -> None:
        card = self.model.card
        self._forget_outcome()
        self.options.setCard(card)
        if card is not None:
            self.input.set_channel(card.channel)
        self._renew()

    def _forget_outcome(self) -> None:
        """What was said of the last result would be misread as being of the next one."""
        if not self.run.is_running:
            self.run.say("")

    def _renew(self) -> None:
        of_layer = self.input.source() == "layer"
        self.options.set_for_files(not of_layer)
        if of_layer:
            self.options.set_sizes(self.input.voxel_size())
        else:
            self.options.allow_resampling()
        self.options_fold.setVisible(self.model.card is not None)
        has_input = not of_layer or self.input.layer.value() is not None
        self.run.set_possible(self.model.card is not None and has_input)
        self._renew_apply()

    def _renew_apply(self) -> None:
        layer = self.input.layer.value()
        array = full_resolution(layer) if layer is not None and self.input.source() == "layer" else None
        self.options.apply_button.setEnabled(
            not self.run.is_running
            and self.layers.can_decode(
                array, self.model.value(), self.model.card, self.input.index, self.options.value()
            )
        )

    def _end(self) -> None:
        self.run.end()
        self._renew_apply()

    def _unfold(self) -> None:
        if self.options_fold.is_open:
            self.options.look_for_devices()

    def _use_preferences(self) -> None:
        self.options.device.setValue(preferences().device)

    # --- building -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(6, 6, 6, 6)
        column.setSpacing(4)
        model, source = _heading("Model"), _heading("What to segment")
        parts = (model, self.model, source, self.input, self.options_fold, self.run, self.files)
        for part in (*parts, self.scores_fold, self.measure_fold):
            column.addWidget(part)
        column.addStretch(1)
        self.scroll_area = _Column()
        self.scroll_area.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll_area.setWidgetResizable(True)
        self.scroll_area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll_area.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # its contents can be reached by Tab
        self.scroll_area.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.scroll_area)

    def _connect(self) -> None:
        self.model.cardChanged.connect(self._take_card)
        self.input.valueChanged.connect(self._renew)
        self.input.sourceChanged.connect(self._forget_outcome)
        self.options.valueChanged.connect(self._renew_apply)
        self.options.applyRequested.connect(self.apply)
        self.options_fold.toggled.connect(self._unfold)
        self.run.started.connect(self.start)
        self.run.cancelled.connect(self._cancel)
        self.layers.shown.connect(self._show_result)
        self._file_work.noted.connect(self._note)
        self._file_work.answered.connect(self._show_written)
        for work in (self.layers, self._file_work):
            work.progressed.connect(self.run.show_progress)
            work.failed.connect(self._show_failure)
            work.ended.connect(self._end)
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.run.press)

    # --- being taken out of the dock --------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Opened, or turned to again: there may be new runs."""
        super().showEvent(event)
        if event is not None and not event.spontaneous():
            self.model.look()

    def event(self, event: QEvent | None) -> bool:
        handled = super().event(event)
        # A dock's ✕ sends no close event; the widget is only taken out of it.
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._cancel()
            QTimer.singleShot(0, self._leave)
        return handled

    def _leave(self) -> None:
        if self.parent() is None:  # not docked again elsewhere
            self.input.release()
            self.deleteLater()


class _Column(QScrollArea):
    """Scrolls up and down only: never narrower than its contents can be."""

    def minimumSizeHint(self) -> QSize:
        content, bar = self.widget(), self.verticalScrollBar()
        size = super().minimumSizeHint()
        if content is None or bar is None:
            return size
        return QSize(content.minimumSizeHint().width() + bar.sizeHint().width(), size.height())


def _heading(text: str) -> QLabel:
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label
