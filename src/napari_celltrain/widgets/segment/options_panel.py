"""How a model is used: the threshold, how objects are told apart, and where it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import Method, ObjectDecoding, first_decoding
from napari_celltrain.values.fields import help_of
from napari_celltrain.widgets.costs import DeviceEditor, shared_finder
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor, Editor, NumberEditor, SwitchEditor
from napari_celltrain.widgets.forms.inputs import LARGEST, NumberBox, nice, one_two_five, steps_of
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.segment.model_panel import METHODS, um
from napari_celltrain.widgets.theme import tooltip

SAME_SIZE = 1.01
"""Voxel sizes that differ by less than this factor are the same, but for how they were rounded."""
_THRESHOLD_HELP = "Probability from which a voxel belongs to a cell: lower finds more, and more that is none."
_NUMBERS = ("smoothing_um", "seed_distance_um", "seed_level", "min_size_um3")
_LABELS = {
    "smoothing_um": "Smoothing",
    "seed_distance_um": "Seed distance",
    "seed_level": "Seed level",
    "min_size_um3": "Smallest size",
}
_OF_SEEDS = ("smoothing_um", "seed_distance_um", "seed_level")


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    threshold: float
    decoding: ObjectDecoding | None
    """None where labels are not objects."""
    resample: bool
    device: str
    probabilities: bool
    """Write them beside the labels; for files only."""

    @property
    def of_objects(self) -> tuple[float, ObjectDecoding | None]:
        """What can be changed without running the network again."""
        return self.threshold, self.decoding


class OptionsPanel(QWidget):
    """Edits :class:`SegmentOptions`; :meth:`setCard` fills in what was tuned when the model was trained."""

    valueChanged = Signal()
    applyRequested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._card: ModelCard | None = None
        self._decoding = ObjectDecoding()  # what is not shown of it is kept
        self.threshold = NumberEditor(NumberBox(0.001, 0.999, whole=False, step=steps_of(0.05)))
        self.method = ChoiceEditor([])
        self.numbers = {name: NumberEditor(_box(name), _unit(name)) for name in _NUMBERS}
        self.seed_unit = QLabel()
        self.reset_button = QPushButton("As tuned")
        self.apply_button = QPushButton("Apply")
        self.resample = SwitchEditor("Resample to the model's voxel size")
        self.device = DeviceEditor()
        self.probabilities = SwitchEditor("Also write the probabilities")
        self._lay_out()
        self._connect()
        self.setCard(None)
        self.set_sizes(None)

    # --- the value ----------------------------------------------------------------------------------------------

    def value(self) -> SegmentOptions:
        return SegmentOptions(
            float(self.threshold.value()),
            self._edited() if self._has_objects else None,
            self.resample.isEnabled() and self.resample.value(),
            self.device.value(),
            self.probabilities.value(),
        )

    @property
    def _has_objects(self) -> bool:
        return self._card is not None and self._card.label_kind == "objects"

    @property
    def is_as_tuned(self) -> bool:
        card = self._card
        return card is None or self.value().of_objects == (card.threshold, card.decoding if self._has_objects else None)

    def setCard(self, card: ModelCard | None) -> None:
        """Show the model's own options; of the last model's nothing is kept but device and probabilities."""
        self._card = card
        classes = card is not None and card.label_kind == "classes"
        self.form.setRowVisible(self.threshold, card is not None and not classes)
        self.form.setRowVisible(self.method, self._has_objects)
        self.form.setRowVisible(self._buttons, card is not None and not classes)
        if card is not None:
            self.reset()
        self._renew()

    def reset(self) -> None:
        """Back to what was tuned on the validation volumes."""
        card = self._card
        if card is None:
            return
        with QSignalBlocker(self):
            self.threshold.setValue(card.threshold)
            if self._has_objects:
                methods: tuple[Method, ...] = ("components", "watershed")
                methods += ("learned",) if card.target == "objects" else ()
                with QSignalBlocker(self.method):
                    self.method.set_choices([Choice(key, *METHODS[key]) for key in methods])
                    self.method.setValue(card.decoding.method)
                self._show(card.decoding)
        self._tell()

    def set_sizes(self, image: Spacing | None) -> None:
        """The voxel size of the image to be segmented, where it is known: resampling is offered if it differs."""
        wanted = None if self._card is None else self._card.voxel_size
        factors = scale_factors(image, wanted)
        differs = factors is not None and any(max(f, 1 / f) > SAME_SIZE for f in factors)
        self.resample.setEnabled(differs)
        if differs and factors is not None and image is not None and wanted is not None:
            times = " × ".join(f"{factor:.3g}" for factor in factors)
            text = f"Image {um(image)}, model {um(wanted)}: {times} times as many voxels along z, y, x."
        elif wanted is None:
            text = "The model does not know its voxel size." if self._card is not None else ""
        else:
            text = "The image has the model's voxel size." if image is not None else ""
        self.resample_text.setText(text)
        self.resample_text.setVisible(bool(text))

    def allow_resampling(self) -> None:
        """For files, whose voxel sizes are found out later."""
        self.resample.setEnabled(self._card is not None and self._card.voxel_size is not None)
        self.resample_text.setText("Files of another voxel size are resampled, and their labels brought back.")
        self.resample_text.show()

    def set_for_files(self, files: bool) -> None:
        self.form.setRowVisible(self.probabilities, files)

    def look_for_devices(self) -> None:
        """Name the devices; asked for only when somebody sees them."""
        finder = shared_finder()
        if finder.devices is None and not finder.is_looking:
            finder.look()
        self._name_devices()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _edited(self) -> ObjectDecoding:
        return self._decoding.model_copy(update={name: float(box.value()) for name, box in self.numbers.items()})

    def _show(self, decoding: ObjectDecoding) -> None:
        self._decoding = decoding
        for name, editor in self.numbers.items():
            with QSignalBlocker(editor):
                editor.setValue(getattr(decoding, name))

    def _change_method(self) -> None:
        """A level means something else with each method, so it begins anew; sizes stay."""
        card, method = self._card, self.method.value()
        if card is None or method == self._decoding.method:
            return
        if method == card.decoding.method:
            start = card.decoding
        else:
            seeds = max(float(self.numbers["seed_distance_um"].value()), 1.0)
            start = first_decoding("objects", 3 * seeds, self._decoding.context_um)
            start = start.model_copy(update={"method": method} | ({} if method == "learned" else {"seed_level": 0.0}))
        start = start.model_copy(update={"min_size_um3": float(self.numbers["min_size_um3"].value())})
        self._show(start)
        self._tell()

    def _tell(self, *_: Any) -> None:
        self._renew()
        self.valueChanged.emit()

    def _renew(self) -> None:
        for name, editor in self.numbers.items():
            self.form.setRowVisible(
                editor, self._has_objects and (name not in _OF_SEEDS or self._decoding.method != "components")
            )
        self.seed_unit.setText("µm deep" if self._decoding.method == "watershed" else "")
        self.reset_button.setEnabled(not self.is_as_tuned)

    def _name_devices(self) -> None:
        devices = shared_finder().devices
        if devices is not None:
            self.device.set_devices(devices)

    def _lay_out(self) -> None:
        rows = FieldRows()
        self.form = rows.form
        self._add(rows, "Threshold", self.threshold, _THRESHOLD_HELP)
        self._add(rows, "Objects by", self.method, help_of(ObjectDecoding, "method"))
        for name, editor in self.numbers.items():
            self._add(rows, _LABELS[name], editor, help_of(ObjectDecoding, name))
        level = self.numbers["seed_level"].layout()
        assert isinstance(level, QHBoxLayout)
        level.insertWidget(1, self.seed_unit)
        self._buttons = QWidget()
        buttons = QHBoxLayout(self._buttons)
        buttons.setContentsMargins(0, 0, 0, 0)
        self.reset_button.setToolTip(tooltip("Back to the values that were best on the validation volumes"))
        self.apply_button.setToolTip(
            tooltip("Make objects anew from what the network said the last time; it does not run again")
        )
        for button in (self.reset_button, self.apply_button):
            buttons.addWidget(button)
        buttons.addStretch(1)
        rows.add_widget(self._buttons)
        self.resample.setToolTip("Show the network the image at the voxel size that it was trained on.")
        rows.add_widget(self.resample)
        self.resample_text = rows.add_text()
        self.resample_text.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
        self._add(rows, "Device", self.device, "Where to compute.")
        self.probabilities.setToolTip(
            "Beside the labels of each volume, a file with what the network said of each voxel."
        )
        rows.add_widget(self.probabilities)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(rows)

    def _add(self, rows: FieldRows, label: str, editor: Editor, help_text: str) -> None:
        name = QLabel(label)
        name.setBuddy(editor)
        name.setToolTip(tooltip(help_text))
        editor.setToolTip(help_text)
        editor.set_accessible_name(label)
        rows.form.addRow(name, editor)

    def _connect(self) -> None:
        self.method.valueChanged.connect(self._change_method)
        for editor in (self.threshold, *self.numbers.values(), self.resample, self.device, self.probabilities):
            editor.valueChanged.connect(self._tell)
        self.reset_button.clicked.connect(self.reset)
        self.apply_button.clicked.connect(self.applyRequested)
        shared_finder().found.connect(self._name_devices)


def scale_factors(image: Spacing | None, wanted: Spacing | None) -> Spacing | None:
    """How many times as many voxels resampling makes along z, y and x; None where a size is not known."""
    if image is None or wanted is None:
        return None
    z, y, x = (have / want for have, want in zip(image, wanted, strict=True))
    return z, y, x


def _box(name: str) -> NumberBox:
    facts = ObjectDecoding.model_fields[name]
    high = next((bound.le for bound in facts.metadata if hasattr(bound, "le")), LARGEST)
    step = one_two_five if name == "min_size_um3" else steps_of(nice(0.1))
    return NumberBox(0.0, high, whole=False, step=step)


def _unit(name: str) -> str:
    return "µm³" if name.endswith("_um3") else "µm" if name.endswith("_um") else ""
