"""How a model is used: the threshold, how objects are decoded, and where it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import METHODS, ObjectDecoding, first_decoding
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.costs import DeviceEditor, shared_finder
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor, SwitchEditor, help_label
from napari_celltrain.widgets.forms.rows import FieldRows, editor_for
from napari_celltrain.widgets.theme import button, fill

SAME_SIZE = 1.01
"""Voxel sizes that differ by less than this factor are the same, but for how they were rounded."""
_FIELDS = ("smoothing_um", "seed_distance_um", "seed_level", "min_size_um3")
"""The numbers of :class:`ObjectDecoding` that are shown; the others stay as tuned."""


class OptionsPanel(QWidget):
    """Edits how a model is used; :meth:`setCard` fills in the values tuned when it was trained."""

    valueChanged = Signal()

    def __init__(self, apply: Callable[[], None]) -> None:
        super().__init__()
        self._card: ModelCard | None = None
        self._decoding = ObjectDecoding()
        self.rows = rows = FieldRows(model=ObjectDecoding)
        self.threshold = editor_for("threshold", ModelCard)
        text = "Probability from which a voxel is foreground. A lower one finds more cells, and more false objects."
        rows.add_control("Threshold", self.threshold, text)
        self.method = rows.add("method", ChoiceEditor())
        self.numbers = {name: rows.add(name) for name in _FIELDS}
        self.seed_unit = QLabel("µm deep")
        self.numbers["seed_level"].layout().insertWidget(1, self.seed_unit)
        text = "Back to the values that were best on the validation volumes"
        self.reset_button = button("As tuned", text, self.reset)
        self.apply_button = button("Apply", "Recompute objects from the stored probability maps", apply)
        self._buttons = QWidget()
        fill(QHBoxLayout(self._buttons), self.reset_button, self.apply_button, None)
        self.resample = SwitchEditor("Resample to the model's voxel size")
        self.resample.setToolTip("Show the network the image at the voxel size that it was trained on.")
        self.resample_text = help_label()
        self.device = DeviceEditor(shared_finder())
        self.probabilities = SwitchEditor("Also write the probabilities")
        self.probabilities.setToolTip("Beside the labels of each volume, write a file with its probability maps.")
        for part in (self._buttons, self.resample, self.resample_text):
            rows.form.addRow(part)
        rows.add_control("Device", self.device, "Where to compute.")
        rows.form.addRow(self.probabilities)
        fill(QVBoxLayout(self), rows)
        rows.valueChanged.connect(self._change)
        for editor in (self.threshold, self.resample, self.device, self.probabilities):
            editor.valueChanged.connect(self._report)
        self.setCard(None)
        self.set_image(None, files=False)

    def value(self) -> dict[str, Any]:
        """Fields of :class:`PredictRequest`; threshold and decoding are None as long as they are as tuned."""
        threshold, decoding = float(self.threshold.value()), self._decoding.model_copy(update=self.rows.values())
        card = self._card
        return {
            "threshold": None if card is None or threshold == card.threshold else threshold,
            "decoding": None if card is None or decoding == card.decoding else decoding,
            "resample": self.resample.isEnabled() and self.resample.value(),
            "device": self.device.value(),
        }

    def setCard(self, card: ModelCard | None) -> None:
        """Show the model's own options; of the last model's only device and probabilities are kept."""
        self._card = card
        if card is not None:
            with QSignalBlocker(self.rows):
                self.method.setValue("components")  # else a method of the last model would stay among the choices
                methods = [key for key in METHODS if key != "learned" or card.target == "objects"]
                self.method.set_choices([Choice(key, *METHODS[key]) for key in methods])
        self.reset()

    def reset(self) -> None:
        """Back to the values tuned on the validation volumes."""
        if self._card is not None:
            self.threshold.setValue(self._card.threshold)
        self._show(ObjectDecoding() if self._card is None else self._card.decoding)

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
            text = "The model does not know its voxel size."
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
        if not shared_finder().is_looking:
            shared_finder().look()

    def _show(self, decoding: ObjectDecoding) -> None:
        self._decoding = decoding
        with QSignalBlocker(self.rows):
            self.rows.set_values(decoding)
        self._report()

    def _change(self) -> None:
        """With another method, a seed level means something else and starts again; sizes stay."""
        card, values = self._card, self.rows.values()
        method = values["method"]
        if card is None or method == self._decoding.method:
            self._report()
            return
        start = card.decoding
        if method != start.method:
            seeds = max(values["seed_distance_um"], 1.0)
            start = first_decoding("objects", 3 * seeds, self._decoding.context_um)
            if method != "learned":
                start = start.model_copy(update={"method": method, "seed_level": 0.0})
        self._show(start.model_copy(update={"min_size_um3": values["min_size_um3"]}))

    def _report(self) -> None:
        method, has_objects = self._decoding.method, self._card is not None and self._card.label_kind == "objects"
        has_threshold = self._card is not None and self._card.label_kind != "classes"
        shown = {self.threshold: has_threshold, self._buttons: has_threshold, self.method: has_objects}
        for name in _FIELDS:
            shown[self.numbers[name]] = has_objects and (name == "min_size_um3" or method != "components")
        for row, is_shown in shown.items():
            self.rows.form.setRowVisible(row, is_shown)
        self.seed_unit.setVisible(method == "watershed")
        value = self.value()
        self.reset_button.setEnabled(value["threshold"] is not None or value["decoding"] is not None)
        self.valueChanged.emit()
