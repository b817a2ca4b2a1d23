"""The dock widget "Segment with a trained model"."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut, QShowEvent
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QWidget

from napari_celltrain.runs.process import PredictRequest
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.text import count
from napari_celltrain.widgets.forms.rows import Fold, TabPage, column
from napari_celltrain.widgets.layers import add_layer, full_resolution, undisturbed
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.segment.input_panel import InputPanel, Place, place_of
from napari_celltrain.widgets.segment.model_panel import ModelPanel
from napari_celltrain.widgets.segment.object_panels import MeasurePanel, ScoresPanel
from napari_celltrain.widgets.segment.options_panel import OptionsPanel
from napari_celltrain.widgets.segment.parts import FileList, RunRow
from napari_celltrain.widgets.segment.work import (
    DECODING,
    LOADING,
    Maps,
    Result,
    Written,
    decode_again,
    segment_files,
    segment_volume,
)
from napari_celltrain.widgets.theme import FocusRing

if TYPE_CHECKING:
    from napari import Viewer


class SegmentWidget(QWidget):
    """What the manifest names: a model, what to segment, and below it what came of it."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self._kept: tuple[Maps, Callable[[], Any], tuple[object, ...]] | None = None
        self._ring = FocusRing(self)
        self._was_shown = False
        self.model = ModelPanel()
        self.input = InputPanel(napari_viewer)
        self.options = OptionsPanel()
        self.options.device.setValue(preferences().device)
        self.options_fold = Fold("Options", self.options)
        self.run = RunRow("Segment", "Find the cells with the chosen model (Ctrl+Return)", "Segmenting")
        self.files = FileList(napari_viewer)
        self.scores = ScoresPanel(napari_viewer)
        self.scores_fold = Fold("Scores: compare with true labels", self.scores)
        self.measure = MeasurePanel(napari_viewer)
        self.measure_fold = Fold("Measure objects", self.measure)
        self._lay_out()
        self._connect()
        self._renew()

    def reset_choices(self, *_: object) -> None:
        """The layers of the viewer have changed (napari connects this by its name)."""
        for part in (self.input.layer, self.scores, self.measure):
            part.reset_choices()

    def start(self) -> None:
        model = self.model.value()
        if model is None or self.model.card is None:
            return
        with self.run.errors_shown():
            if self.input.source == "layer":
                work = partial(segment_volume, model=model, image=self.input.volume(), options=self.options.value())
                show = self._result_handler()
                self._kept = None
                self.run.start(work, show, LOADING)
            else:
                self._segment_files(model)

    def apply(self) -> None:
        """Recompute objects from the stored probability maps."""
        with self.run.errors_shown():
            maps, options = self._maps(), self.options.value()
            if maps is None:
                raise DataError(f"{self.input.volume().name}: was changed since it was segmented. Segment it again.")
            self.run.start(partial(decode_again, kept=maps, options=options), self._result_handler(), DECODING)

    def _segment_files(self, model: Path) -> None:
        images, output = self.input.files()
        given, options = self.input.file_fields.values(), self.options.value()
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

        def show(num_written: int) -> None:
            self.run.message.say(f"{count(num_written, 'volume')} segmented, in {output}.")

        self.run.start(partial(segment_files, request=request), show, "Starting")

    def _note(self, noted: Written | str) -> None:
        if isinstance(noted, Written):
            self.files.add(noted)
        else:
            show_warning(noted)

    # --- results of layers ---------------------------------------------------------------------------------------

    @property
    def _key(self) -> tuple[object, ...]:
        """What probability maps depend on beside the image."""
        return self.model.value(), self.input.index, self.options.value().resample

    def _maps(self) -> Maps | None:
        """Of the layer, the model and the options chosen now; None where the network has to run."""
        layer = self.input.layer.value()
        if self._kept is None or layer is None or self.input.source != "layer":
            return None
        maps, array, key = self._kept
        fit = array() is full_resolution(layer) and key == self._key and maps.card == self.model.card
        return maps if fit else None

    def _result_handler(self) -> Callable[[Result], None]:
        """Shows a result of the layer chosen now, which may be removed meanwhile. Raises ``DataError``."""
        image, model = self.input.layer.value(), self.model.name
        key, name, place = f"{image.unique_id} {model}", f"{image.name} – {model}", place_of(image, self.input.index)
        maps_key = self._key
        try:
            array: Callable[[], Any] = weakref.ref(full_resolution(image))
        except TypeError:  # an array of a kind that cannot be recognized without keeping it alive
            array = lambda: None  # noqa: E731

        def show(result: Result) -> None:
            if result.maps is not None and array() is not None and result.maps.fit_in_memory():
                self._kept = result.maps, array, maps_key
            layer = show_result(self.viewer, key, name, result.labels, place)
            self.run.message.say(result.summary)
            self.scores.propose(layer)
            self.measure.propose(layer, self.input.layer.value())

        return show

    # --- how the parts depend on each other ----------------------------------------------------------------------

    def _take_card(self) -> None:
        card = self.model.card
        self._forget_outcome()
        self.options.setCard(card)
        if card is not None:
            self.input.set_channel(card.channel)
        self._renew()

    def _forget_outcome(self) -> None:
        """The message about the last result would be misread as being about the next one."""
        if not self.run.is_running:
            self.run.message.say("")

    def _renew(self) -> None:
        of_layer = self.input.source == "layer"
        self.options.set_image(self.input.voxel_size if of_layer else None, files=not of_layer)
        self.options_fold.setVisible(self.model.card is not None)
        has_input = not of_layer or self.input.layer.value() is not None
        self.run.set_possible(self.model.card is not None and has_input)
        self._renew_apply()

    def _renew_apply(self) -> None:
        self.options.apply_button.setEnabled(not self.run.is_running and self._maps() is not None)

    # --- building ------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.scroll_area = _Column()
        self.scroll_area.column.setSpacing(4)
        model, source = QLabel("<b>Model</b>"), QLabel("<b>What to segment</b>")
        parts = (model, self.model, source, self.input, self.options_fold, self.run, self.files)
        for part in (*parts, self.scores_fold, self.measure_fold):
            self.scroll_area.column.addWidget(part)
        self.scroll_area.end()
        column(self, self.scroll_area)

    def _connect(self) -> None:
        self.model.cardChanged.connect(self._take_card)
        self.input.valueChanged.connect(self._renew)
        self.input.sourceChanged.connect(self._forget_outcome)
        self.options.valueChanged.connect(self._renew_apply)
        self.options.applyRequested.connect(self.apply)
        self.options_fold.toggled.connect(self.options.look_for_devices)
        for fold in (self.options_fold, self.scores_fold, self.measure_fold):
            fold.toggled.connect(self.scroll_area.updateGeometry)
        self.run.started.connect(self.start)
        self.run.noted.connect(self._note)
        self.run.ended.connect(self._renew)
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.run.press)

    # --- being docked and taken out of the dock ------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Opened, or turned to again: there may be new runs."""
        super().showEvent(event)
        if event is not None and not event.spontaneous():
            self.model.look()
            if not self._was_shown:  # afterwards the user arranges the docks
                self._was_shown = True
                QTimer.singleShot(0, self._share_dock)

    def _share_dock(self) -> None:
        """Become a tab of another dock of this plugin on the same side: one below the other, both would be too low."""
        window = self.window()
        if not isinstance(window, QMainWindow):
            return
        docks = {dock.isAncestorOf(self): dock for dock in window.findChildren(QDockWidget) if _is_ours(dock)}
        other, own = docks.get(False), docks.get(True)
        if own is not None and other is not None and window.dockWidgetArea(own) == window.dockWidgetArea(other):
            window.tabifyDockWidget(other, own)
            own.raise_()

    def event(self, event: QEvent | None) -> bool:
        handled = super().event(event)
        # A dock's ✕ sends no close event; the widget is only taken out of it.
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.run.cancel()
            QTimer.singleShot(0, self._leave)
        return handled

    def _leave(self) -> None:
        if self.parent() is None:  # not docked again elsewhere
            self.deleteLater()


class _Column(TabPage):
    """Never narrower than its contents can be."""

    def minimumSizeHint(self) -> QSize:
        bar, size = self.verticalScrollBar(), super().minimumSizeHint()
        width = self.page.minimumSizeHint().width()
        return QSize(width + bar.sizeHint().width(), size.height()) if bar is not None else size


def _is_ours(dock: QDockWidget) -> bool:
    """Whether it shows this widget or the training widget, and can hold a tab."""
    names = {type(child).__name__ for child in dock.findChildren(QWidget)}
    return not dock.isFloating() and not dock.isHidden() and not names.isdisjoint({"TrainWidget", "SegmentWidget"})


RESULT = "celltrain_result"
"""Key in the metadata of a result: which image and which model it is of."""
_EDITED = "celltrain_edited"


def show_result(viewer: Any, key: str, name: str, labels_ZYX: NDArray[Any], place: Place) -> Any:
    """Renew the topmost result of ``key``, or add a layer called ``name``.

    A layer that the user has painted in is left alone: what was corrected by hand is never lost.
    """
    shaped = place.shaped(labels_ZYX)
    results = [layer for layer in viewer.layers if layer.metadata.get(RESULT) == key]
    layer = next((layer for layer in reversed(results) if not layer.metadata.get(_EDITED)), None)
    with undisturbed(viewer):
        if layer is None or layer.ndim != shaped.ndim:
            layer = add_layer(viewer, "labels", shaped, name=name, metadata={RESULT: key}, opacity=0.6, **place.options)
            layer.events.paint.connect(lambda event: event.source.metadata.update({_EDITED: True}))
            return layer
        layer.data = shaped
        layer.features = {}  # measured on the labels before
        for option, value in place.options.items():
            setattr(layer, option, value)
        layer.visible = True
    return layer
