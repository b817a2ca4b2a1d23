"""Editors of values made of several: values that may be empty, ranges, and sizes along z, y and x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QWidget

from napari_celltrain.widgets.editors import Editor
from napari_celltrain.widgets.focus_frame import MARGIN
from napari_celltrain.widgets.inputs import NumberBox, Stepper
from napari_celltrain.widgets.path_edit import Kind, PathEdit


class OptionalEditor(Editor):
    """A value, or None while the box that says what None means ("automatic", "no limit") is checked.

    Meanwhile the inner editor, disabled, keeps or is given (:meth:`propose`) what unchecking would begin with.
    """

    def __init__(self, inner: Editor, none_text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.inner = inner
        self.box = QCheckBox(none_text)
        self.box.setChecked(True)
        inner.setEnabled(False)
        layout = self._hold(self.box)
        if isinstance(inner, NumbersEditor):  # too wide for one line in a narrow window
            layout.setDirection(QHBoxLayout.Direction.TopToBottom)
            layout.setSpacing(0)
        layout.addWidget(inner, 1)
        self.box.toggled.connect(self._switch)
        inner.valueChanged.connect(self._tell)

    def value(self) -> Any:
        return None if self.box.isChecked() else self.inner.value()

    def setValue(self, value: Any) -> None:
        before = self.value()
        with QSignalBlocker(self):
            if value is not None:
                self.inner.setValue(value)
            self.box.setChecked(value is None)
        if self.value() != before:
            self.valueChanged.emit()

    def propose(self, value: Any) -> None:
        """What is shown while the value is None: what the program would take by itself."""
        if self.box.isChecked():
            with QSignalBlocker(self):
                self.inner.setValue(value)

    def set_accessible_name(self, name: str) -> None:
        self.box.setAccessibleName(f"{name}: {self.box.text()}")
        self.inner.set_accessible_name(name)

    def _switch(self, is_none: bool) -> None:
        self.inner.setEnabled(not is_none)
        self.valueChanged.emit()

    def _tell(self) -> None:
        if not self.box.isChecked():
            self.valueChanged.emit()


class NumbersEditor(Editor):
    """Several numbers in a row, each behind its name: a tuple such as a size along z, y and x."""

    def __init__(
        self, boxes: Sequence[NumberBox], names: Sequence[str], unit: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.boxes = tuple(boxes)
        self._names = tuple(names)
        self.setFocusProxy(self.boxes[0])  # before they are inside: else Qt closes the order of Tab to a ring of them
        layout = QHBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(4)
        for box, name in zip(self.boxes, names, strict=True):
            label = QLabel(name)
            label.setBuddy(box)
            layout.addWidget(label)
            layout.addWidget(box, 1)
            # napari's theme gives every spin box at least 130 pixels, of which three do not fit a dock
            box.setStyleSheet("min-width: 5em; padding: 1px 2px")  # with its buttons, for a number such as 1024
            box.setMaximumWidth(box.fontMetrics().horizontalAdvance("0" * 14))
            self.watch(box)
            box.valueChanged.connect(self._tell)
        if unit:
            layout.addWidget(QLabel(unit))
        layout.addStretch(0)

    def value(self) -> tuple[int | float, ...]:
        return tuple(box.number() for box in self.boxes)

    def setValue(self, value: Sequence[float]) -> None:
        before = self.value()
        for box, number in zip(self.boxes, value, strict=True):
            with QSignalBlocker(box):
                box.setValue(number)
        if self.value() != before:
            self.valueChanged.emit()

    def set_steps(self, steps: Sequence[Stepper]) -> None:
        """How far the arrows go, number by number."""
        for box, step in zip(self.boxes, steps, strict=True):
            box.set_step(step)

    def set_accessible_name(self, name: str) -> None:
        for box, part in zip(self.boxes, self._names, strict=True):
            box.setAccessibleName(f"{name} {part}")

    def _tell(self) -> None:
        self.valueChanged.emit()


class RangeEditor(NumbersEditor):
    """Two numbers, the first never above the second: whichever is moved past the other takes it along."""

    def __init__(self, low: NumberBox, high: NumberBox, unit: str = "", parent: QWidget | None = None) -> None:
        super().__init__((low, high), ("from", "to"), unit, parent)
        low.valueChanged.disconnect(self._tell)
        high.valueChanged.disconnect(self._tell)
        low.valueChanged.connect(self._push_up)
        high.valueChanged.connect(self._push_down)

    def _push_up(self) -> None:
        low, high = self.boxes
        if high.value() < low.value():
            with QSignalBlocker(high):
                high.setValue(low.value())
        self.valueChanged.emit()

    def _push_down(self) -> None:
        low, high = self.boxes
        if low.value() > high.value():
            with QSignalBlocker(low):
                low.setValue(high.value())
        self.valueChanged.emit()


class PathEditor(Editor):
    """A path, or None."""

    valueChanged = Signal()

    def __init__(self, kind: Kind, history: str, placeholder: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.edit = PathEdit(kind, history=history, placeholder=placeholder)
        self._hold(self.edit)
        self.watch(self.edit.edit)
        self.edit.valueChanged.connect(self._tell)

    def value(self) -> Any:
        return self.edit.value()

    def setValue(self, value: Any) -> None:
        self.edit.setValue(value)

    def setToolTip(self, text: str | None) -> None:
        self.edit.setToolTip(text)  # it adds the whole path

    def set_problem(self, text: str | None) -> None:
        self._problem = text
        self.edit.set_problem(text)

    def set_accessible_name(self, name: str) -> None:
        self.edit.set_accessible_name(name)

    def _tell(self) -> None:
        self.valueChanged.emit()
