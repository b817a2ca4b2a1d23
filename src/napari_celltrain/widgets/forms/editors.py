"""Editors of one value each: numbers, switches, text, choices. What is made of several is in ``compound_editors``.

Editors of values made of several: values that may be empty, ranges, and sizes along z, y and x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.widgets.forms.focus import MARGIN, draw_frame
from napari_celltrain.widgets.forms.inputs import ComboBox, NumberBox, Stepper
from napari_celltrain.widgets.forms.path_edit import Kind, PathEdit
from napari_celltrain.widgets.theme import plain_label, tooltip


class Editor(QWidget):
    """Edits one value: after ``setValue(x)``, ``value() == x``; ``valueChanged`` comes when it has become another."""

    valueChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._help = ""
        self._problem: str | None = None

    def value(self) -> Any:
        raise NotImplementedError

    def setValue(self, value: Any) -> None:
        raise NotImplementedError

    def problem(self) -> str | None:
        return self._problem

    def set_problem(self, text: str | None) -> None:
        """Frame the field in red and say why in its tooltip, or take that back."""
        self._problem = text
        self.update()
        self._renew_tooltip()

    @property
    def is_marked(self) -> bool:
        return self._problem is not None

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if self.is_marked:
            draw_frame(self, self.rect(), "error")

    def setToolTip(self, text: str | None) -> None:
        self._help = text or ""
        self._renew_tooltip()

    def set_accessible_name(self, name: str) -> None:
        """What a screen reader calls the input."""
        proxy = self.focusProxy()
        if proxy is not None:
            proxy.setAccessibleName(name)

    def _renew_tooltip(self) -> None:
        super().setToolTip(tooltip("\n\n".join(part for part in (self._problem or "", self._help) if part)))

    def _hold(self, *widgets: QWidget, stretch: bool = False) -> QHBoxLayout:
        """Put the widgets in a row; the first one takes the focus for the editor."""
        self.setFocusProxy(widgets[0])  # before they are inside: else Qt closes the order of Tab to a ring of them
        layout = QHBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(4)
        for widget in widgets:
            layout.addWidget(widget)
        if stretch:
            layout.addStretch(1)
        return layout


class NumberEditor(Editor):
    """A whole number or a fraction, with its unit behind it."""

    def __init__(self, box: NumberBox, unit: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = box
        layout = self._hold(box)
        if unit:
            layout.addWidget(QLabel(unit))
        layout.addStretch(1)
        box.valueChanged.connect(self._tell)

    def value(self) -> int | float:
        return self.box.number()

    def setValue(self, value: float) -> None:
        self.box.setValue(value)

    def _tell(self) -> None:
        self.valueChanged.emit()


class SwitchEditor(Editor):
    """Yes or no."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = QCheckBox(text)
        self._hold(self.box, stretch=True)
        self.box.toggled.connect(self._tell)

    def value(self) -> bool:
        return bool(self.box.isChecked())

    def setValue(self, value: bool) -> None:
        self.box.setChecked(value)

    def _tell(self) -> None:
        self.valueChanged.emit()


class TextEditor(Editor):
    """A line of text, or None where ``optional`` and empty."""

    def __init__(self, *, optional: bool = False, placeholder: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._optional = optional
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self._hold(self.line)
        self._told: str | None = self.value()
        self.line.editingFinished.connect(self._tell)

    def value(self) -> str | None:
        text = self.line.text()
        return None if self._optional and not text.strip() else text

    def setValue(self, value: str | None) -> None:
        self.line.setText(value or "")
        self._tell()

    def _tell(self) -> None:
        if self.value() != self._told:
            self._told = self.value()
            self.valueChanged.emit()


@dataclass(frozen=True, slots=True)
class Choice:
    """``key`` is the value, ``label`` what is shown, ``help`` a line about it."""

    key: str
    label: str
    help: str = ""


class ChoiceEditor(Editor):
    """One of several choices; the help of the one chosen is shown below it.

    A value that is none of the choices (of a file from elsewhere) is added as it is, so that it is shown and not lost.
    """

    def __init__(self, choices: Iterable[Choice], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.box = ComboBox()
        self.box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.help_line = help_label()
        self.setFocusProxy(self.box)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.setSpacing(2)
        layout.addWidget(self.box)
        layout.addWidget(self.help_line)
        self._choices: list[Choice] = []
        self.set_choices(list(choices))
        self.box.currentIndexChanged.connect(self._tell)

    def value(self) -> str:
        return str(self.box.currentData())

    def setValue(self, value: str) -> None:
        if self.box.findData(value) < 0:
            self._add(self._choice_of(value))
        self.box.setCurrentIndex(self.box.findData(value))

    def choices(self) -> tuple[Choice, ...]:
        return tuple(self._choices)

    def set_choices(self, choices: Sequence[Choice]) -> None:
        """Replace the choices (their words, too); the value stays."""
        kept = self.value() if self._choices else None
        with QSignalBlocker(self.box):
            self.box.clear()
            self._choices = []
            for choice in choices:
                self._add(choice)
            if kept is not None:
                self.setValue(kept)
        self._show_help()

    def _choice_of(self, value: str) -> Choice:
        """How a value is shown that is none of the choices."""
        return Choice(value, value)

    def _add(self, choice: Choice) -> None:
        self._choices.append(choice)
        self.box.addItem(choice.label, choice.key)
        if choice.help:
            self.box.setItemData(self.box.count() - 1, tooltip(choice.help), Qt.ItemDataRole.ToolTipRole)

    def _tell(self) -> None:
        self._show_help()
        self.valueChanged.emit()

    def _show_help(self) -> None:
        text = next((choice.help for choice in self._choices if choice.key == self.box.currentData()), "")
        self.help_line.setText(text)
        self.help_line.setVisible(bool(text))


def help_label(text: str = "") -> QLabel:
    """A line of help: it wraps, and is a little paler than what it explains."""
    label = plain_label(text)
    label.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
    label.setVisible(bool(text))
    return label


# --- compound editors ------------------------------------------------------------------------------------


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
