"""The Augmentation tab: how patches are sampled, and which augmentations vary them, with their strength folded away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QHBoxLayout, QPushButton, QRadioButton, QVBoxLayout, QWidget

from napari_celltrain.nets.augment import AUGMENTATIONS
from napari_celltrain.nets.geometry import network_divisor
from napari_celltrain.registry import Entry
from napari_celltrain.values.config import (
    DEFAULT_AUGMENTATIONS,
    Augmentation,
    AugmentationConfig,
    AugmentationSpec,
    TrainingConfig,
)
from napari_celltrain.values.fields import AUGMENTATION_CLASSES, AUGMENTATIONS_PATH, all_fields
from napari_celltrain.widgets.forms.editors import NumbersEditor, OptionalEditor, help_label
from napari_celltrain.widgets.forms.inputs import steps_of
from napari_celltrain.widgets.forms.rows import FieldRows, Fold, TabPage
from napari_celltrain.widgets.theme import button, fill, tooltip
from napari_celltrain.widgets.train import advice


class AugmentationRow(QWidget):
    """One augmentation, or None while it is switched off."""

    valueChanged = Signal()

    def __init__(self, entry: Entry[Any]) -> None:
        super().__init__()
        self._class = AUGMENTATION_CLASSES[entry.key]
        self._label = entry.label
        self.box = QCheckBox()
        self.box.setToolTip(tooltip(entry.help))
        self.box.setAccessibleName(entry.label)
        fields = [name for name in self._class.model_fields if name != "name"]
        self.rows = FieldRows(f"{AUGMENTATIONS_PATH}.{entry.key}.{name}" for name in fields)
        content = QWidget()
        fill(QVBoxLayout(content), help_label(entry.help), self.rows).setContentsMargins(8, 0, 0, 6)
        self.fold = Fold(entry.label, content)
        self.fold.button.setToolTip(tooltip(entry.help))
        layout = fill(QHBoxLayout(self), self.box, self.fold, spacing=4)
        layout.setAlignment(self.box, Qt.AlignmentFlag.AlignTop)
        layout.setStretchFactor(self.fold, 1)
        self.box.toggled.connect(self._renew)
        self.rows.valueChanged.connect(self._renew)
        self._renew()

    def value(self) -> AugmentationSpec | None:
        return self._class.model_validate(self.rows.values()) if self.box.isChecked() else None

    def setValue(self, value: AugmentationSpec | None) -> None:
        if value is not None:
            self.rows.set_values(value)
        self.box.setChecked(value is not None)

    def set_frozen(self, frozen: bool) -> None:
        """It can still be unfolded and read."""
        self.box.setEnabled(not frozen)
        self.rows.setEnabled(self.box.isChecked() and not frozen)

    def _renew(self) -> None:
        is_on = self.box.isChecked()
        self.rows.setEnabled(is_on and self.box.isEnabledTo(self))
        probability = self.rows.values()["probability"]
        self.fold.set_title(f"{self._label}: {probability:.0%}" if is_on else f"{self._label}: off")
        self.valueChanged.emit()


class AugmentationTab(TabPage):
    """Edits an :class:`AugmentationConfig`; its advice depends on :meth:`set_context`."""

    valueChanged = Signal()
    previewRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._facts: advice.DataFacts | None = None
        self._training = TrainingConfig()
        self._is_setting = False
        self._radio_buttons: list[QRadioButton] = []
        self.patches_button, self.whole_button = self._radios("Patches cropped from the volumes", "Whole images")
        for radio_button in (self.patches_button, self.whole_button):
            radio_button.setToolTip(tooltip(all_fields()["augmentation.patches"].help))
        self.patch_rows = FieldRows()
        self.patch_size: OptionalEditor = self.patch_rows.add("augmentation.patch_size")
        self.suggestion_text = help_label()
        self.suggest_button = button("Use the suggestion", "", self._use_suggestion)
        self.patch_rows.form.addRow(self.suggestion_text)
        self.patch_rows.form.addRow(fill(QHBoxLayout(), self.suggest_button, None))
        self.patch_rows.add("augmentation.samples_per_volume")
        self.patch_rows.add("augmentation.foreground_fraction")
        self.add_group("What the network sees", self.patches_button, self.whole_button, self.patch_rows)
        texts = ("Off", "On, with the default set", "On, with a set of my own")
        self.off_button, self.default_button, self.custom_button = self._radios(*texts)
        self.rows = {entry.key: AugmentationRow(entry) for entry in AUGMENTATIONS}
        self._order: list[str] = []
        self.list = QWidget()
        fill(QVBoxLayout(self.list), *self.rows.values(), spacing=4)
        self.advice_text = help_label(advice.augmentation_advice(AugmentationConfig(), None))
        self.add_group("Augmentation", *self._radio_buttons[2:], self.list, self.advice_text)
        help_text = "Show patches as the network gets them, as layers: image and labels. Each press draws new ones."
        self.preview_button = QPushButton("Preview training patches")
        self.preview_button.setToolTip(tooltip(help_text))
        self.preview_button.clicked.connect(self.previewRequested)
        self.column.addLayout(fill(QHBoxLayout(), self.preview_button, None))
        self.column.addStretch(1)
        self.patch_rows.valueChanged.connect(self._change)
        for row in self.rows.values():
            row.valueChanged.connect(self._change)
        self.setValue(AugmentationConfig())

    def value(self) -> AugmentationConfig:
        specs: dict[str, Any] = {name: row.value() for name, row in self.rows.items()}
        # those given first keep their order; newly switched on ones follow them
        chosen = tuple(specs[name] for name in dict.fromkeys([*self._order, *specs]) if specs[name] is not None)
        return AugmentationConfig(
            patches=self.patches_button.isChecked(),
            augment=not self.off_button.isChecked(),
            augmentations=DEFAULT_AUGMENTATIONS if self.default_button.isChecked() else chosen,
            **self.patch_rows.values(),
        )

    def setValue(self, value: AugmentationConfig) -> None:
        self._is_setting = True
        (self.patches_button if value.patches else self.whole_button).setChecked(True)
        self.patch_rows.set_values(value)
        given: dict[str, Augmentation] = {spec.name: spec for spec in value.augmentations}
        self._order = list(given)
        for name, row in self.rows.items():
            row.setValue(given.get(name))
        is_default = value.augmentations == DEFAULT_AUGMENTATIONS
        switched_on = self.default_button if is_default else self.custom_button
        (switched_on if value.augment else self.off_button).setChecked(True)
        self._is_setting = False
        self._change()

    def set_context(self, facts: advice.DataFacts | None, training: TrainingConfig) -> None:
        self._facts, self._training = facts, training
        self._renew_advice()

    def set_running(self, running: bool) -> None:
        """Freeze the values while training."""
        for widget in (*self._radio_buttons, self.patch_rows, self.preview_button):
            widget.setEnabled(not running)
        for row in self.rows.values():
            row.set_frozen(running)

    def show_problems(self, problems: Mapping[str, str]) -> None:
        """Mark the fields in ``problems`` (text by path such as ``augmentation.patch_size``), and no others."""
        for rows in (self.patch_rows, *(row.rows for row in self.rows.values())):
            rows.set_problems(problems)

    def _radios(self, *texts: str) -> list[QRadioButton]:
        group = QButtonGroup(self)
        buttons = [QRadioButton(text) for text in texts]
        for radio_button in buttons:
            group.addButton(radio_button)
            radio_button.toggled.connect(self._change)
        self._radio_buttons += buttons
        return buttons

    def _change(self, checked: bool = True) -> None:
        # of a pair of radio buttons, one reports that it is off and one that it is on: the second is enough
        if self._is_setting or not checked:
            return
        self.patch_rows.setVisible(self.patches_button.isChecked())
        self.list.setVisible(self.custom_button.isChecked())
        self._renew_advice()
        self.valueChanged.emit()

    def _renew_advice(self) -> None:
        value, facts = self.value(), self._facts
        self.advice_text.setText(advice.augmentation_advice(value, facts))
        divisor = network_divisor(self._training.model, facts.voxel_size if facts else None)
        assert isinstance(self.patch_size.inner, NumbersEditor)
        for box, step in zip(self.patch_size.inner.boxes, divisor, strict=True):
            box.step = steps_of(step)
        suggested, text = None, "A size is suggested here once images and labels are chosen."
        if facts is not None:
            suggested = advice.suggestion(facts, self._training).patch_size
            self.patch_size.propose(suggested)
            warning = advice.patch_warning(facts, value.patch_size, divisor)
            text = f"{warning}\n{advice.suggestion_words(facts, self._training)}".strip()
        self.suggestion_text.setText(text)
        self.suggestion_text.setVisible(True)
        self.suggest_button.setEnabled(suggested is not None and value.patch_size not in (None, suggested))

    def _use_suggestion(self) -> None:
        if self._facts is not None:
            self.patch_size.setValue(advice.suggestion(self._facts, self._training).patch_size)
