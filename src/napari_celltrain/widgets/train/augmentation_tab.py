"""The augmentations to choose from: each with a switch, its probability, and its strength folded away.

The Augmentation tab: what the network gets to see of a volume, and how it is varied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QHBoxLayout, QPushButton, QRadioButton, QVBoxLayout, QWidget

from napari_celltrain.nets.augment import AUGMENTATIONS
from napari_celltrain.nets.geometry import network_divisor
from napari_celltrain.values.config import (
    DEFAULT_AUGMENTATIONS,
    Augmentation,
    AugmentationConfig,
    AugmentationSpec,
    TrainingConfig,
)
from napari_celltrain.values.fields import AUGMENTATIONS_PATH, all_fields, augmentation_classes, field_names
from napari_celltrain.widgets.forms.editors import NumbersEditor, OptionalEditor, help_label
from napari_celltrain.widgets.forms.inputs import steps_of
from napari_celltrain.widgets.forms.rows import FieldRows, Fold, TabPage
from napari_celltrain.widgets.theme import tooltip
from napari_celltrain.widgets.train import advice


class AugmentationRow(QWidget):
    """One augmentation, or None while it is switched off."""

    valueChanged = Signal()

    def __init__(self, cls: type[AugmentationSpec], label: str, help: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._class = cls
        self._label = label
        self._frozen = False
        name = cls.model_fields["name"].default
        self.box = QCheckBox()
        self.box.setToolTip(tooltip(help))
        self.box.setAccessibleName(label)
        self.rows = FieldRows(f"{AUGMENTATIONS_PATH}.{name}.{field}" for field in field_names(cls) if field != "name")
        content = QWidget()
        inside = QVBoxLayout(content)
        inside.setContentsMargins(8, 0, 0, 6)
        inside.addWidget(help_label(help))
        inside.addWidget(self.rows)
        self.fold = Fold(label, content)
        self.fold.button.setToolTip(tooltip(help))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.box, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.fold, 1)
        self.box.toggled.connect(self._renew)
        self.rows.valueChanged.connect(self._renew)
        self._renew()

    @property
    def name(self) -> str:
        return str(self._class.model_fields["name"].default)

    def value(self) -> AugmentationSpec | None:
        return self._class.model_validate(self.rows.values()) if self.box.isChecked() else None

    def setValue(self, value: AugmentationSpec | None) -> None:
        if value is not None:
            self.rows.set_values(value)
        self.box.setChecked(value is not None)

    def set_frozen(self, frozen: bool) -> None:
        """It can still be unfolded and read."""
        self._frozen = frozen
        self.box.setEnabled(not frozen)
        self.rows.setEnabled(self.box.isChecked() and not frozen)

    def _renew(self) -> None:
        is_on = self.box.isChecked()
        self.rows.setEnabled(is_on and not self._frozen)
        probability = self.rows.values()["probability"]
        self.fold.set_title(f"{self._label}: {probability:.0%}" if is_on else f"{self._label}: off")
        self.valueChanged.emit()


class AugmentationList(QWidget):
    """The augmentations in use. Those given first keep their order; what is switched on comes behind them."""

    valueChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        classes = augmentation_classes()
        self.rows = {entry.key: AugmentationRow(classes[entry.key], entry.label, entry.help) for entry in AUGMENTATIONS}
        for row in self.rows.values():
            layout.addWidget(row)
        self._order: list[str] = []
        self._is_setting = False
        self.setValue(DEFAULT_AUGMENTATIONS)
        for row in self.rows.values():
            row.valueChanged.connect(self._tell)

    def value(self) -> tuple[Augmentation, ...]:
        specs: dict[str, Any] = {name: row.value() for name, row in self.rows.items()}
        ordered = [*self._order, *(name for name in specs if name not in self._order)]
        return tuple(specs[name] for name in ordered if specs[name] is not None)

    def setValue(self, value: tuple[Augmentation, ...]) -> None:
        if self._order and self.value() == value:
            return
        given: dict[str, Augmentation] = {spec.name: spec for spec in value}
        self._order = [spec.name for spec in value]
        self._is_setting = True
        for name, row in self.rows.items():
            row.setValue(given.get(name))
        self._is_setting = False
        self.valueChanged.emit()

    def _tell(self) -> None:
        if not self._is_setting:
            self.valueChanged.emit()


# --- augmentation tab ------------------------------------------------------------------------------------

_PATCH_SIZE = "augmentation.patch_size"


class AugmentationTab(TabPage):
    """Edits an :class:`AugmentationConfig`; what it advises depends on :meth:`set_context`."""

    valueChanged = Signal()
    previewRequested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._facts: advice.DataFacts | None = None
        self._training = TrainingConfig()
        self._is_setting = False

        self._radio_buttons: list[QRadioButton] = []
        self.patches_button = QRadioButton("Patches cut out of the volumes")
        self.whole_button = QRadioButton("Whole images")
        self._add_radio_group(self.patches_button, self.whole_button)
        self.patch_rows = FieldRows()
        self.patch_size: OptionalEditor = self.patch_rows.add(_PATCH_SIZE)
        self.suggest_button = QPushButton("Use the suggestion")
        self.suggestion_text = help_label()
        self.patch_rows.add_widget(_indented(self.suggestion_text, _left(self.suggest_button)))
        self.patch_rows.add("augmentation.samples_per_volume")
        self.patch_rows.add("augmentation.foreground_fraction")

        self.off_button = QRadioButton("Off")
        self.default_button = QRadioButton("On, with the default set")
        self.custom_button = QRadioButton("On, with a set of my own")
        self._add_radio_group(self.off_button, self.default_button, self.custom_button)
        self.list = AugmentationList()
        self.advice_text = help_label(advice.augmentation_advice(AugmentationConfig(), None))
        self.preview_button = QPushButton("Preview training patches")

        self._lay_out()
        self._connect()
        self.setValue(AugmentationConfig())

    def value(self) -> AugmentationConfig:
        augmentations = self.list.value()
        if self.default_button.isChecked():
            augmentations = DEFAULT_AUGMENTATIONS
        return AugmentationConfig(
            patches=self.patches_button.isChecked(),
            augment=not self.off_button.isChecked(),
            augmentations=augmentations,
            **self.patch_rows.values(),
        )

    def setValue(self, value: AugmentationConfig) -> None:
        self._is_setting = True
        (self.patches_button if value.patches else self.whole_button).setChecked(True)
        self.patch_rows.set_values(value)
        self.list.setValue(value.augmentations)
        if not value.augment:
            self.off_button.setChecked(True)
        elif value.augmentations == DEFAULT_AUGMENTATIONS:
            self.default_button.setChecked(True)
        else:
            self.custom_button.setChecked(True)
        self._is_setting = False
        self._change()

    def set_context(self, facts: advice.DataFacts | None, training: TrainingConfig) -> None:
        """Renew suggestion and advice."""
        self._facts, self._training = facts, training
        self._renew_advice()

    def set_running(self, running: bool) -> None:
        """Freeze the values while training."""
        for widget in (*self._radio_buttons, self.patch_rows, self.preview_button):
            widget.setEnabled(not running)
        for row in self.list.rows.values():
            row.set_frozen(running)

    def show_problems(self, problems: Mapping[str, str]) -> None:
        """Mark the fields in ``problems`` (text by path such as ``augmentation.patch_size``), and no others."""
        self.patch_rows.set_problems(problems)
        for row in self.list.rows.values():
            row.rows.set_problems(problems)

    def _add_radio_group(self, *buttons: QRadioButton) -> None:
        group = QButtonGroup(self)
        for button in buttons:
            group.addButton(button)
            button.toggled.connect(self._change)
            self._radio_buttons.append(button)

    def _lay_out(self) -> None:
        facts = all_fields()["augmentation.patches"]
        for button in (self.patches_button, self.whole_button):
            button.setToolTip(tooltip(facts.help))
        self.add_group(
            "What the network sees",
            self.patches_button,
            self.whole_button,
            self.patch_rows,
        )
        self.add_group(
            "Augmentation",
            *(b for b in (self.off_button, self.default_button, self.custom_button)),
            self.list,
            self.advice_text,
        )
        self.preview_button.setToolTip(
            tooltip("Show patches as the network gets them, as layers: image and labels. Each press draws new ones.")
        )
        self.column.addWidget(_left(self.preview_button))
        self.end()

    def _connect(self) -> None:
        self.patch_rows.valueChanged.connect(self._change)
        self.list.valueChanged.connect(self._change)
        self.suggest_button.clicked.connect(self._use_suggestion)
        self.preview_button.clicked.connect(self._request_preview)

    def _request_preview(self) -> None:
        self.previewRequested.emit()

    def _change(self, checked: bool = True) -> None:
        # of a pair of radio buttons, one tells that it is off and one that it is on: the second is enough
        if self._is_setting or not checked:
            return
        self.patch_rows.setVisible(self.patches_button.isChecked())
        self.list.setVisible(self.custom_button.isChecked())
        self._renew_advice()
        self.valueChanged.emit()

    def _renew_advice(self) -> None:
        value = self.value()
        self.advice_text.setText(advice.augmentation_advice(value, self._facts))
        facts = self._facts
        divisor = network_divisor(self._training.model, facts.voxel_size if facts else None)
        inner = self.patch_size.inner
        assert isinstance(inner, NumbersEditor)
        inner.set_steps([steps_of(step) for step in divisor])
        self.suggest_button.setEnabled(facts is not None and value.patch_size is not None)
        if facts is None:
            self.suggestion_text.setText("A size is suggested here once images and labels are chosen.")
            self.suggestion_text.setVisible(True)
            return
        suggestion = advice.suggestion(facts, self._training)
        self.patch_size.propose(suggestion.patch_size)
        warning = advice.patch_warning(facts, value.patch_size, divisor)
        text = advice.suggestion_words(facts, self._training)
        self.suggestion_text.setText(f"{warning}\n{text}" if warning else text)
        self.suggestion_text.setVisible(True)
        self.suggest_button.setEnabled(value.patch_size not in (None, suggestion.patch_size))

    def _use_suggestion(self) -> None:
        if self._facts is not None:
            self.patch_size.setValue(advice.suggestion(self._facts, self._training).patch_size)


def _left(button: QPushButton) -> QWidget:
    """A button as wide as its text, at the left."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(button)
    layout.addStretch(1)
    return row


def _indented(*widgets: QWidget) -> QWidget:
    box = QWidget()
    layout = QVBoxLayout(box)
    layout.setContentsMargins(8, 0, 0, 4)
    layout.setSpacing(2)
    for widget in widgets:
        layout.addWidget(widget)
    return box
