"""The augmentations to choose from: each with a switch, its probability, and its strength folded away."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from napari_celltrain.config import DEFAULT_AUGMENTATIONS, Augmentation, AugmentationSpec
from napari_celltrain.parts.augmentations import AUGMENTATIONS
from napari_celltrain.runs.config_fields import AUGMENTATIONS_PATH, augmentation_classes, field_names
from napari_celltrain.widgets.editors import help_label
from napari_celltrain.widgets.focus_frame import FocusFrame
from napari_celltrain.widgets.fold import Fold
from napari_celltrain.widgets.forms import FieldRows
from napari_celltrain.widgets.plain_text import tooltip


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
        layout.addWidget(FocusFrame.around(self.box), 0, Qt.AlignmentFlag.AlignTop)
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
