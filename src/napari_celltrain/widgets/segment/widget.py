"""The dock widget "Segment with a trained model"."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut, QShowEvent
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QVBoxLayout, QWidget

from napari_celltrain.data.pairs import Pair
from napari_celltrain.runs.process import PredictRequest
from napari_celltrain.values.config import DataConfig
from napari_celltrain.widgets.forms.rows import Fold, TabPage
from napari_celltrain.widgets.layers import add_layer, full_resolution, undisturbed
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.segment.input_panel import InputPanel, Place, place_of, volume_of
from napari_celltrain.widgets.segment.model_panel import ModelPanel
from napari_celltrain.widgets.segment.object_panels import MeasurePanel, ScoresPanel
from napari_celltrain.widgets.segment.options_panel import OptionsPanel
from napari_celltrain.widgets.segment.parts import FileList, RunRow
from napari_celltrain.widgets.segment.work import Result, segment_files, segment_volume
from napari_celltrain.widgets.theme import FocusRing, fill


class SegmentWidget(QWidget):
    """What the manifest names: a model, what to segment, and below it what came of it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self._kept: tuple[Callable[..., Any], Callable[[], Any], tuple[object, ...]] | None = None
        self._ring = FocusRing(self)
        self._was_shown = False
        self.model = ModelPanel()
        self.input = InputPanel(napari_viewer)
        self.options = OptionsPanel(self.apply)
        self.options.device.setValue(preferences().device)
        self.options_fold = Fold("Options", self.options)
        help_text = "Find the cells with the chosen model (Ctrl+Return)"
        self.run = RunRow("Segment", help_text, "Segmenting", self.start)
        self.files = FileList(napari_viewer)
        self.scores = ScoresPanel(napari_viewer)
        self.scores_fold = Fold("Scores: compare with true labels", self.scores)
        self.measure = MeasurePanel(napari_viewer)
        self.measure_fold = Fold("Measure objects", self.measure)
        self.scroll_area = _Column()
        self.scroll_area.column.setSpacing(4)
        model, source = QLabel("<b>Model</b>"), QLabel("<b>What to segment</b>")
        parts = (model, self.model, source, self.input, self.options_fold, self.run, self.files)
        for part in (*parts, self.scores_fold, self.measure_fold):
            self.scroll_area.column.addWidget(part)
        self.scroll_area.column.addStretch(1)
        fill(QVBoxLayout(self), self.scroll_area)
        self.model.cardChanged.connect(self._take_card)
        self.input.valueChanged.connect(self._renew)
        self.input.layer_button.toggled.connect(lambda: self.run.message.say(""))
        self.options.valueChanged.connect(self._renew)
        self.options_fold.toggled.connect(self.options.look_for_devices)
        for fold in (self.options_fold, self.scores_fold, self.measure_fold):
            fold.toggled.connect(self.scroll_area.updateGeometry)
        self.run.noted.connect(self._note)
        self.run.ended.connect(self._renew)
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.run.press)
        self._renew()

    def reset_choices(self, *_: object) -> None:
        """The layers of the viewer have changed (napari connects this by its name)."""
        for part in (self.input.layer, self.scores, self.measure):
            part.reset_choices()

    def start(self) -> None:
        """Segment what is chosen. Raises :class:`DataError` where that cannot be done."""
        model, card, options = self.model.path.value(), self.model.card, self.options.value()
        if model is None or card is None:
            return
        if self.input.is_layer:
            image = volume_of(self.input.layer.value(), self.input.index)
            show = self._result_handler()
            self._kept = None
            self.run.start(partial(segment_volume, model=model, image=image, **options), show)
            return
        images, output = self.input.files()
        given = self.input.file_fields.values()
        channel = card.channel if given["channel"] is None else given["channel"]
        self.files.begin(DataConfig(**(given | {"channel": channel})))
        probabilities = self.options.probabilities.value()
        request = PredictRequest(model, (images,), output, probabilities=probabilities, **options, **given)
        self.run.start(partial(segment_files, request=request), self.run.message.say)

    def apply(self) -> None:
        """Recompute objects from the stored probability maps."""
        decode, options = self._decode(), self.options.value()
        if decode is not None:
            self.run.start(lambda job: decode(options["threshold"], options["decoding"]), self._result_handler())

    def _note(self, noted: Pair | str) -> None:
        if isinstance(noted, Pair):
            self.files.add(noted)
        else:
            show_warning(noted)

    # --- results of layers ---------------------------------------------------------------------------------------

    @property
    def _key(self) -> tuple[object, ...]:
        """What probability maps depend on beside the image."""
        return self.model.path.value(), self.model.card, self.input.index, self.options.value()["resample"]

    def _decode(self) -> Callable[..., Any] | None:
        """Decodes the maps of the layer, the model and the options chosen now; None where the network has to run."""
        layer = self.input.layer.value()
        if self._kept is None or layer is None or not self.input.is_layer:
            return None
        decode, array, key = self._kept
        return decode if array() is full_resolution(layer) and key == self._key else None

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
            if result.decode is not None and array() is not None:
                self._kept = result.decode, array, maps_key
            layer = show_result(self.viewer, key, name, result.labels, place)
            self.run.message.say(result.summary)
            self.scores.propose(layer)
            self.measure.propose(layer, self.input.layer.value())

        return show

    # --- how the parts depend on each other ----------------------------------------------------------------------

    def _take_card(self) -> None:
        card = self.model.card
        self.run.message.say("")  # about the last result, it would be misread as being about the next one
        self.options.setCard(card)
        self.input.set_channel(card.channel if card is not None else None)
        self._renew()

    def _renew(self) -> None:
        has_model, is_layer = self.model.card is not None, self.input.is_layer
        self.options.set_image(self.input.voxel_size, files=not is_layer)
        self.options_fold.setVisible(has_model)
        self.run.set_possible(has_model and not (is_layer and self.input.layer.value() is None))
        self.options.apply_button.setEnabled(not self.run.is_running and self._decode() is not None)

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
        docks = {}
        for dock in window.findChildren(QDockWidget):
            names = {type(child).__name__ for child in dock.findChildren(QWidget)}
            if names & {"TrainWidget", "SegmentWidget"} and not dock.isFloating() and not dock.isHidden():
                docks[dock.isAncestorOf(self)] = dock
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


RESULT = "celltrain_result"
"""Key in the metadata of a result: which image and which model it is of."""
_EDITED = "celltrain_edited"


def show_result(viewer: Any, key: str, name: str, labels_ZYX: NDArray[Any], place: Place) -> Any:
    """Renew the topmost result of ``key``, or add a layer called ``name``.

    A layer that the user has painted in is left alone: what was corrected by hand is never lost.
    """
    options, axes = place
    shaped = np.expand_dims(labels_ZYX, axes)
    results = [layer for layer in viewer.layers if layer.metadata.get(RESULT) == key]
    layer = next((layer for layer in reversed(results) if not layer.metadata.get(_EDITED)), None)
    with undisturbed(viewer):
        if layer is None or layer.ndim != shaped.ndim:
            layer = add_layer(viewer, "labels", shaped, name=name, metadata={RESULT: key}, opacity=0.6, **options)
            layer.events.paint.connect(lambda event: event.source.metadata.update({_EDITED: True}))
            return layer
        layer.data = shaped
        layer.features = {}  # measured on the labels before
        for option, value in options.items():
            setattr(layer, option, value)
        layer.visible = True
    return layer
