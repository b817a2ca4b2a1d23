"""How a model is used: the threshold, how objects are decoded, and where it is computed."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import METHODS, ObjectDecoding, first_decoding
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.costs import DeviceEditor, shared_finder
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor, SwitchEditor, help_label
from napari_celltrain.widgets.forms.rows import FieldRows, column, editor_for, line
from napari_celltrain.widgets.segment.work import SegmentOptions
from napari_celltrain.widgets.theme import tooltip

SAME_SIZE = 1.01
"""Voxel sizes that differ by less than this factor are the same, but for how they were rounded."""
_FIELDS = ("smoothing_um", "seed_distance_um", "seed_level", "min_size_um3")
"""The numbers of :class:`ObjectDecoding` that are shown; the others stay as tuned."""


class OptionsPanel(QWidget):
    """Edits :class:`SegmentOptions`; :meth:`setCard` fills in the values tuned when the model was trained."""

    valueChanged = Signal()
    applyRequested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._card: ModelCard | None = None
        self._decoding = ObjectDecoding()
        self.rows = FieldRows(model=ObjectDecoding)
        self.threshold = editor_for("threshold", ModelCard)
        self.method = ChoiceEditor([])
        self.seed_unit = QLabel("µm deep")
        self.reset_button = QPushButton("As tuned")
        self.apply_button = QPushButton("Apply")
        self.resample = SwitchEditor("Resample to the model's voxel size")
        self.device = DeviceEditor(shared_finder())
        self.probabilities = SwitchEditor("Also write the probabilities")
        self._lay_out()
        self.rows.valueChanged.connect(self._change)
        for editor in (self.threshold, self.resample, self.device, self.probabilities):
            editor.valueChanged.connect(self._report)
        self.reset_button.clicked.connect(self.reset)
        self.apply_button.clicked.connect(self.applyRequested)
        self.setCard(None)
        self.set_image(None, files=False)

    def value(self) -> SegmentOptions:
        return SegmentOptions(
            float(self.threshold.value()),
            self._decoding.model_copy(update=self.rows.values()) if self._has_objects else None,
            self.resample.isEnabled() and self.resample.value(),
            self.device.value(),
            self.probabilities.value(),
        )

    @property
    def _has_objects(self) -> bool:
        return self._card is not None and self._card.label_kind == "objects"

    @property
    def is_as_tuned(self) -> bool:
        card, value = self._card, self.value()
        if card is None:
            return True
        return value.threshold == card.threshold and value.decoding == (card.decoding if self._has_objects else None)

    def setCard(self, card: ModelCard | None) -> None:
        """Show the model's own options; of the last model's only device and probabilities are kept."""
        self._card = card
        has_threshold = card is not None and card.label_kind != "classes"
        for row in (self.threshold, self._buttons):
            self.rows.form.setRowVisible(row, has_threshold)
        self.rows.form.setRowVisible(self.method, self._has_objects)
        self.reset()

    def reset(self) -> None:
        """Back to the values tuned on the validation volumes."""
        card = self._card
        if card is not None:
            with QSignalBlocker(self):
                self.threshold.setValue(card.threshold)
            with QSignalBlocker(self.rows):
                self.method.setValue("components")  # else a method of the last model would stay among the choices
                methods = [key for key in METHODS if key != "learned" or card.target == "objects"]
                self.method.set_choices([Choice(key, *METHODS[key]) for key in methods])
            self._show(card.decoding)
        self._report()

    def set_image(self, size: Spacing | None, *, files: bool) -> None:
        """The voxel size of the image, where it is known: resampling is offered if it differs from the model's.

        The voxel sizes of ``files`` are known only when they are read.
        """
        self.rows.form.setRowVisible(self.probabilities, files)
        wanted = None if self._card is None else self._card.voxel_size
        text, offered = "", False
        if files:
            offered = wanted is not None
            text = "Files of another voxel size are resampled, and their labels brought back."
        elif wanted is None:
            text = "The model does not know its voxel size." if self._card is not None else ""
        elif size is not None:
            factors = [have / want for have, want in zip(size, wanted, strict=True)]
            offered = any(max(factor, 1 / factor) > SAME_SIZE for factor in factors)
            text = "The image has the model's voxel size."
            if offered:
                both = f"Image {sizes(size)} µm, model {sizes(wanted)} µm"
                text = f"{both}: {sizes(factors)} times as many voxels along z, y, x."
        self.resample.setEnabled(offered)
        self.resample_text.setText(text)
        self.resample_text.setVisible(bool(text))

    def look_for_devices(self) -> None:
        """Name the devices; asked for only when the options are seen."""
        finder = shared_finder()
        if finder.devices is None and not finder.is_looking:
            finder.look()

    def _show(self, decoding: ObjectDecoding) -> None:
        self._decoding = decoding
        with QSignalBlocker(self.rows):
            self.rows.set_values(decoding)

    def _change(self) -> None:
        """With another method, a seed level means something else and starts again; sizes stay."""
        card, method = self._card, self.method.value()
        if card is not None and method != self._decoding.method:
            values = self.rows.values()
            start = card.decoding
            if method != start.method:
                seeds = max(values["seed_distance_um"], 1.0)
                start = first_decoding("objects", 3 * seeds, self._decoding.context_um)
                if method != "learned":
                    start = start.model_copy(update={"method": method, "seed_level": 0.0})
            self._show(start.model_copy(update={"min_size_um3": values["min_size_um3"]}))
        self._report()

    def _report(self) -> None:
        method = self._decoding.method
        for name in _FIELDS:
            is_used = name == "min_size_um3" or method != "components"
            self.rows.form.setRowVisible(self.numbers[name], self._has_objects and is_used)
        self.seed_unit.setVisible(method == "watershed")
        self.reset_button.setEnabled(not self.is_as_tuned)
        self.valueChanged.emit()

    def _lay_out(self) -> None:
        rows = self.rows
        threshold_help = (
            "Probability from which a voxel is foreground. A lower one finds more cells, and more false objects."
        )
        rows.add_control("Threshold", self.threshold, threshold_help)
        rows.add("method", self.method)
        self.numbers = {name: rows.add(name) for name in _FIELDS}
        self.numbers["seed_level"].layout().insertWidget(1, self.seed_unit)
        self._buttons = QWidget()
        column(self._buttons, line(self.reset_button, self.apply_button))
        self.reset_button.setToolTip(tooltip("Back to the values that were best on the validation volumes"))
        self.apply_button.setToolTip(tooltip("Recompute objects from the stored probability maps"))
        self.resample.setToolTip("Show the network the image at the voxel size that it was trained on.")
        self.probabilities.setToolTip("Beside the labels of each volume, write a file with its probability maps.")
        rows.add_widget(self._buttons)
        rows.add_widget(self.resample)
        self.resample_text = help_label()
        rows.add_widget(self.resample_text)
        rows.add_control("Device", self.device, "Where to compute.")
        rows.add_widget(self.probabilities)
        column(self, rows)
