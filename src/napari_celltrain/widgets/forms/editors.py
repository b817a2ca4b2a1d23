"""Editors of one value each: numbers, switches, text, choices, values that may be empty, ranges and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QBoxLayout, QCheckBox, QHBoxLayout, QLabel, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.values.fields import FieldFacts
from napari_celltrain.widgets.forms.inputs import ComboBox, NumberBox
from napari_celltrain.widgets.theme import Frame, fill, plain_label, tooltip


class Editor(QWidget):
    """Edits one value: after ``setValue(x)``, ``value() == x``; ``valueChanged`` comes when it has become another."""

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._help = ""
        self.problem: str | None = None
        """What is wrong with the value; set by :meth:`set_problem`."""
        self._mark = Frame(self, is_error=True)

    def value(self) -> Any:
        raise NotImplementedError

    def setValue(self, value: Any) -> None:
        raise NotImplementedError

    def set_problem(self, text: str | None) -> None:
        """Frame the field in red and say why in its tooltip, or take that back."""
        self.problem = text
        self._mark.setVisible(text is not None)
        self._mark.raise_()
        self._renew_tooltip()

    def setToolTip(self, text: str | None) -> None:
        self._help = text or ""
        self._renew_tooltip()

    def set_accessible_name(self, name: str) -> None:
        """The name of the input for a screen reader."""
        if (proxy := self.focusProxy()) is not None:
            proxy.setAccessibleName(name)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        self._mark.setGeometry(self.rect())

    def _hints(self) -> list[str]:
        return [self.problem or "", self._help]

    def _renew_tooltip(self) -> None:
        super().setToolTip(tooltip("\n\n".join(filter(None, self._hints()))))

    def _hold(
        self, *widgets: QWidget, unit: str = "", vertical: bool = False, focus: QWidget | None = None
    ) -> QBoxLayout:
        """Put the widgets in a row or a column; ``focus`` (the first one) takes the focus for the editor."""
        # before the widgets are inside: else Qt closes the order of Tab to a ring of them
        self.setFocusProxy(focus or widgets[0])
        parts = (*widgets, QLabel(unit)) if unit else widgets
        return fill(QVBoxLayout(self), *parts, spacing=0) if vertical else fill(QHBoxLayout(self), *parts, spacing=4)


class NumberEditor(Editor):
    """A whole number or a fraction, with its unit behind it."""

    def __init__(self, facts: FieldFacts) -> None:
        super().__init__()
        self.box = NumberBox(facts, facts.type)
        self._hold(self.box, unit=facts.shown.unit).addStretch(1)
        self.box.valueChanged.connect(self.valueChanged)

    def value(self) -> int | float:
        return self.box.number()

    def setValue(self, value: float) -> None:
        self.box.setValue(value)


class SwitchEditor(Editor):
    """Yes or no."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.box = QCheckBox(text)
        self._hold(self.box).addStretch(1)
        self.box.toggled.connect(self.valueChanged)

    def value(self) -> bool:
        return bool(self.box.isChecked())

    def setValue(self, value: bool) -> None:
        self.box.setChecked(value)


class TextEditor(Editor):
    """A line of text, or None where ``optional`` and empty."""

    def __init__(self, *, optional: bool = False, placeholder: str = "") -> None:
        super().__init__()
        self._optional = optional
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        self._hold(self.line)
        self._reported: str | None = self.value()
        self.line.editingFinished.connect(self._report)

    def value(self) -> str | None:
        text = self.line.text()
        return None if self._optional and not text.strip() else text

    def setValue(self, value: str | None) -> None:
        self.line.setText(value or "")
        self._report()

    def _report(self) -> None:
        if self.value() != self._reported:
            self._reported = self.value()
            self.valueChanged.emit()


@dataclass(frozen=True, slots=True)
class Choice:
    """``key`` is the value, ``label`` what is shown, ``help`` a line about it."""

    key: str
    label: str
    help: str = ""


class ChoiceEditor(Editor):
    """One of several choices, with the help of the current one below it.

    An unknown value (of a file from elsewhere) is added as it is, so that it is shown and not lost.
    """

    def __init__(self, choices: Iterable[Choice] = ()) -> None:
        super().__init__()
        self.box = ComboBox()
        self.box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.help_line = help_label()
        self._hold(self.box, self.help_line, vertical=True).setSpacing(2)
        self.choices: list[Choice] = []
        self.unknown_help = ""
        self.set_choices(choices)
        self.box.currentIndexChanged.connect(self._show_help)
        self.box.currentIndexChanged.connect(self.valueChanged)

    def value(self) -> str:
        return str(self.box.currentData())

    def setValue(self, value: str) -> None:
        if self.box.findData(value) < 0:
            self._add(Choice(value, value, self.unknown_help))
        self.box.setCurrentIndex(self.box.findData(value))

    def set_choices(self, choices: Iterable[Choice]) -> None:
        """Replace the choices (their labels, too); the value stays."""
        kept = self.value() if self.choices else None
        with QSignalBlocker(self.box):
            self.box.clear()
            self.choices = []
            for choice in choices:
                self._add(choice)
            if kept is not None:
                self.setValue(kept)
        self._show_help()

    def _add(self, choice: Choice) -> None:
        self.choices.append(choice)
        self.box.addItem(choice.label, choice.key)
        self.box.setItemData(self.box.count() - 1, tooltip(choice.help), Qt.ItemDataRole.ToolTipRole)

    def _show_help(self) -> None:
        text = next((choice.help for choice in self.choices if choice.key == self.box.currentData()), "")
        self.help_line.setText(text)
        self.help_line.setVisible(bool(text))


def help_label(text: str = "") -> QLabel:
    """A line of help: it wraps, and is a little paler than what it explains."""
    label = plain_label(text)
    label.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
    label.setVisible(bool(text))
    return label


class OptionalEditor(Editor):
    """A value, or None while the box with the meaning of None ("automatic", "no limit") is checked.

    Meanwhile the inner editor is disabled and shows the value that unchecking would begin with (:meth:`propose`).
    """

    def __init__(self, inner: Editor, none_text: str) -> None:
        super().__init__()
        self.inner = inner
        self.box = QCheckBox(none_text)
        self.box.setChecked(True)
        inner.setEnabled(False)
        # several numbers are too wide for one line in a narrow window
        layout = self._hold(self.box, inner, vertical=isinstance(inner, NumbersEditor))
        layout.setStretchFactor(inner, 1)
        self.box.toggled.connect(inner.setDisabled)
        self.box.toggled.connect(self.valueChanged)
        inner.valueChanged.connect(self.valueChanged)

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
        """Show what the program would choose while the value is None."""
        if self.box.isChecked():
            with QSignalBlocker(self):
                self.inner.setValue(value)

    def set_accessible_name(self, name: str) -> None:
        self.box.setAccessibleName(f"{name}: {self.box.text()}")
        self.inner.set_accessible_name(name)


class NumbersEditor(Editor):
    """Several numbers in a row, each behind its name: a tuple such as a size along z, y and x."""

    _names: tuple[str, ...] = ("z", "y", "x")

    def __init__(self, facts: FieldFacts) -> None:
        super().__init__()
        self.boxes = [NumberBox(facts, kind) for kind in get_args(facts.type)]
        widgets = [widget for name, box in zip(self._names, self.boxes, strict=True) for widget in (QLabel(name), box)]
        layout = self._hold(*widgets, unit=facts.shown.unit, focus=self.boxes[0])
        layout.addStretch(0)
        for box in self.boxes:
            layout.setStretchFactor(box, 1)
            # napari's theme gives every spin box at least 130 pixels, of which three do not fit a dock
            box.setStyleSheet("min-width: 5em; padding: 1px 2px")  # with its buttons, for a number such as 1024
            box.setMaximumWidth(box.fontMetrics().horizontalAdvance("0" * 14))
            box.valueChanged.connect(self._change)

    def value(self) -> tuple[int | float, ...]:
        return tuple(box.number() for box in self.boxes)

    def setValue(self, value: Sequence[float]) -> None:
        before = self.value()
        for box, number in zip(self.boxes, value, strict=True):
            with QSignalBlocker(box):
                box.setValue(number)
        if self.value() != before:
            self.valueChanged.emit()

    def set_accessible_name(self, name: str) -> None:
        for box, part in zip(self.boxes, self._names, strict=True):
            box.setAccessibleName(f"{name} {part}")

    def _change(self) -> None:
        self.valueChanged.emit()


class RangeEditor(NumbersEditor):
    """Two numbers, the first never above the second: either one pushes the other along."""

    _names = ("from", "to")

    def _change(self) -> None:
        low, high = self.boxes
        if low.value() > high.value():
            moved, other = (low, high) if self.sender() is low else (high, low)
            with QSignalBlocker(other):
                other.setValue(moved.value())
        super()._change()
