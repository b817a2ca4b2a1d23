"""How a model is used: the threshold, how objects are decoded, and where it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import METHODS, ObjectDecoding, first_decoding
from napari_celltrain.values.fields import help_of
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.costs import DeviceEditor, shared_finder
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor, NumberEditor, SwitchEditor
from napari_celltrain.widgets.forms.inputs import LARGEST, NumberBox, nice, one_two_five, shortest, steps_of
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.segment.parts import add_row
from napari_celltrain.widgets.theme import tooltip

SAME_SIZE = 1.01
"""Voxel sizes that differ by less than this factor are the same, but for how they were rounded."""
_THRESHOLD_HELP = (
    "Probability from which a voxel is foreground: a lower threshold finds more cells, and more false objects."
)
_NUMBERS = {
    "smoothing_um": "Smoothing",
    "seed_distance_um": "Seed distance",
    "seed_level": "Seed level",
    "min_size_um3": "Smallest size",
}
"""The fields of :class:`ObjectDecoding` that are shown, with their labels; the others stay as tuned."""


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    threshold: float
    decoding: ObjectDecoding | None
    """None where labels are not objects."""
    resample: bool
    device: str
    probabilities: bool
    """Write them beside the labels; for files only."""


class OptionsPanel(QWidget):
    """Edits :class:`SegmentOptions`; :meth:`setCard` fills in the values tuned when the model was trained."""

    valueChanged = Signal()
    applyRequested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._card: ModelCard | None = None
        self._decoding = ObjectDecoding()
        self.threshold = NumberEditor(NumberBox(0.001, 0.999, whole=False, step=steps_of(0.05)))
        self.method = ChoiceEditor([])
        self.numbers = {name: NumberEditor(_NumberBox(name), _unit(name)) for name in _NUMBERS}
        self.seed_unit = QLabel("µm deep")
        self.reset_button = QPushButton("As tuned")
        self.apply_button = QPushButton("Apply")
        self.resample = SwitchEditor("Resample to the model's voxel size")
        self.device = DeviceEditor()
        self.probabilities = SwitchEditor("Also write the probabilities")
        self._lay_out()
        self._connect()
        self.setCard(None)
        self.set_image(None, files=False)

    def value(self) -> SegmentOptions:
        numbers = {name: float(editor.value()) for name, editor in self.numbers.items()}
        return SegmentOptions(
            float(self.threshold.value()),
            self._decoding.model_copy(update=numbers) if self._has_objects else None,
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
            self.form.setRowVisible(row, has_threshold)
        self.form.setRowVisible(self.method, self._has_objects)
        self.reset()

    def reset(self) -> None:
        """Back to the values tuned on the validation volumes."""
        card = self._card
        if card is not None:
            with QSignalBlocker(self):
                self.threshold.setValue(card.threshold)
                methods = [key for key in METHODS if key != "learned" or card.target == "objects"]
                with QSignalBlocker(self.method):
                    self.method.set_choices([Choice(key, *METHODS[key]) for key in methods])
                    self.method.setValue(card.decoding.method)
                self._show(card.decoding)
        self._report()

    def set_image(self, size: Spacing | None, *, files: bool) -> None:
        """The voxel size of the image, where it is known: resampling is offered if it differs from the model's.

        The voxel sizes of ``files`` are known only when they are read.
        """
        self.form.setRowVisible(self.probabilities, files)
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
        self._name_devices()

    def _show(self, decoding: ObjectDecoding) -> None:
        self._decoding = decoding
        for name, editor in self.numbers.items():
            with QSignalBlocker(editor):
                editor.setValue(getattr(decoding, name))

    def _change_method(self) -> None:
        """A seed level means something else with each method, so it starts again; sizes stay."""
        card, method = self._card, self.method.value()
        if card is None or method == self._decoding.method:
            return
        start = card.decoding
        if method != start.method:
            seeds = max(float(self.numbers["seed_distance_um"].value()), 1.0)
            start = first_decoding("objects", 3 * seeds, self._decoding.context_um)
            start = start.model_copy(update={"method": method} | ({} if method == "learned" else {"seed_level": 0.0}))
        self._show(start.model_copy(update={"min_size_um3": float(self.numbers["min_size_um3"].value())}))
        self._report()

    def _report(self, *_: Any) -> None:
        method = self._decoding.method
        for name, editor in self.numbers.items():
            self.form.setRowVisible(editor, self._has_objects and (name == "min_size_um3" or method != "components"))
        self.seed_unit.setVisible(method == "watershed")
        self.reset_button.setEnabled(not self.is_as_tuned)
        self.valueChanged.emit()

    def _name_devices(self) -> None:
        devices = shared_finder().devices
        if devices is not None:
            self.device.set_devices(devices)

    def _lay_out(self) -> None:
        rows = FieldRows()
        self.form = rows.form
        add_row(self.form, "Threshold", self.threshold, _THRESHOLD_HELP)
        add_row(self.form, "Objects by", self.method, help_of(ObjectDecoding, "method"))
        for name, editor in self.numbers.items():
            add_row(self.form, _NUMBERS[name], editor, help_of(ObjectDecoding, name))
        level = self.numbers["seed_level"].layout()
        assert isinstance(level, QHBoxLayout)
        level.insertWidget(1, self.seed_unit)
        self._buttons = QWidget()
        buttons = QHBoxLayout(self._buttons)
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.addWidget(self.reset_button)
        buttons.addWidget(self.apply_button)
        buttons.addStretch(1)
        self.reset_button.setToolTip(tooltip("Back to the values that were best on the validation volumes"))
        self.apply_button.setToolTip(tooltip("Recompute objects from the stored probability maps"))
        self.resample.setToolTip("Show the network the image at the voxel size that it was trained on.")
        self.probabilities.setToolTip("Beside the labels of each volume, write a file with its probability maps.")
        rows.add_widget(self._buttons)
        rows.add_widget(self.resample)
        self.resample_text = rows.add_text()
        self.resample_text.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
        add_row(self.form, "Device", self.device, "Where to compute.")
        rows.add_widget(self.probabilities)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(rows)

    def _connect(self) -> None:
        self.method.valueChanged.connect(self._change_method)
        for editor in (self.threshold, *self.numbers.values(), self.resample, self.device, self.probabilities):
            editor.valueChanged.connect(self._report)
        self.reset_button.clicked.connect(self.reset)
        self.apply_button.clicked.connect(self.applyRequested)
        shared_finder().found.connect(self._name_devices)


class _NumberBox(NumberBox):
    """Of a field of :class:`ObjectDecoding`. Tuned values are shown with three digits and kept exactly."""

    def __init__(self, name: str) -> None:
        bounds = ObjectDecoding.model_fields[name].metadata
        high = next((bound.le for bound in bounds if hasattr(bound, "le")), LARGEST)
        step = one_two_five if name == "min_size_um3" else steps_of(nice(0.1))
        super().__init__(0.0, high, whole=False, step=step)

    def textFromValue(self, value: float) -> str:
        return shortest(float(f"{value:.3g}") if abs(value) < 1000 else round(value))

    def valueFromText(self, text: str | None) -> float:
        return self.value() if text == self.textFromValue(self.value()) else super().valueFromText(text)


def _unit(name: str) -> str:
    return "µm³" if name.endswith("_um3") else "µm" if name.endswith("_um") else ""
