"""Number boxes and combo boxes for a form in a scroll area: the wheel scrolls the form, and values stay exact."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from decimal import Decimal

from qtpy.QtCore import QLocale, QSize, Qt
from qtpy.QtGui import QValidator, QWheelEvent
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QStyle, QStyleOptionComboBox, QStyleOptionSpinBox

from napari_celltrain.values.fields import FieldFacts

Stepper = Callable[[float, int], float]
"""From a value and a number of steps to the next value."""

SMALLEST = 1e-30
"""Stands for "above 0", as a spin box has no open bounds."""
LARGEST_WHOLE = 2**53
"""Up to here a double holds every whole number."""
LARGEST = 1e300
_PADDING = 6  # of the text of a combo box in napari's theme


class NumberBox(QDoubleSpinBox):
    """A number of any size, shown in the shortest way that means exactly it, such as ``1e-5``, or in percent.

    Where the field says how many digits to show, that holds for a value that was set rather than typed; the value
    itself stays exact. A comma is taken for a point. ``valueChanged`` comes when typing ends, not at each letter.
    """

    def __init__(self, facts: FieldFacts, kind: type) -> None:
        """A box for the value of a field, or for one number of several; ``kind`` is int or float."""
        self._whole = kind is int
        self._percent = facts.shown.unit == "%"
        self._digits = facts.shown.digits
        self._num_letters = 11 if facts.high is not None and facts.high > 1e9 else 7 if facts.type is kind else 5
        self.step = _stepper(facts, self._whole)
        super().__init__()
        self.setDecimals(0 if self._whole else 40)  # Qt rounds to them; a value of a file must stay what it was
        largest = LARGEST_WHOLE if self._whole else LARGEST
        lowest = -largest if facts.low is None else facts.low + (SMALLEST if facts.low_excluded else 0)
        self.setRange(lowest, largest if facts.high is None else facts.high)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setLocale(QLocale.c())  # digits as in the YAML, without separators of thousands

    def number(self) -> int | float:
        """The value, also of what is being typed just now, as far as that is a value yet."""
        if self.hasAcceptableInput():  # otherwise Qt would take back what was typed so far
            self.interpretText()
        return int(self.value()) if self._whole else self.value()

    def stepBy(self, steps: int) -> None:
        self.interpretText()
        self.setValue(min(max(self.step(self.value(), steps), self.minimum()), self.maximum()))
        self.selectAll()

    def textFromValue(self, value: float) -> str:
        if self._percent:
            return f"{Decimal(repr(value)).scaleb(2).normalize():f}"
        if self._digits is not None:
            value = float(f"{value:.{self._digits}g}") if abs(value) < 10**self._digits else round(value)
        return str(int(value)) if self._whole else shortest(value)

    def valueFromText(self, text: str | None) -> float:
        if self._digits is not None and text == self.textFromValue(self.value()):
            return self.value()
        return self._parse(text or "") or 0.0

    def validate(self, text: str | None, position: int) -> tuple[QValidator.State, str, int]:
        text = text or ""
        allowed = "0123456789-+ " if self._whole else "0123456789-+ .,eE"
        if not set(text) <= set(allowed):
            return QValidator.State.Invalid, text, position
        value = self._parse(text)
        inside = value is not None and self.minimum() <= value <= self.maximum()
        return (QValidator.State.Acceptable if inside else QValidator.State.Intermediate), text, position

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        elif event is not None:
            event.ignore()  # scrolls the form instead

    def sizeHint(self) -> QSize:
        """Room for a usual number; Qt's own is as wide as the largest one, of 300 digits."""
        return self._size_for(self._num_letters)

    def minimumSizeHint(self) -> QSize:
        return self._size_for(min(self._num_letters, 3))

    def _parse(self, text: str) -> float | None:
        text = text.replace(" ", "").replace(",", ".")
        try:
            value = float(Decimal(text).scaleb(-2) if self._percent else text)
        except (ValueError, ArithmeticError):
            return None
        return value if math.isfinite(value) else None

    def _size_for(self, num_letters: int) -> QSize:
        self.ensurePolished()
        option = QStyleOptionSpinBox()
        self.initStyleOption(option)
        editor, style = self.lineEdit(), self.style()
        assert editor is not None
        assert style is not None
        contents = QSize(self.fontMetrics().horizontalAdvance("0" * num_letters), editor.sizeHint().height())
        return style.sizeFromContents(QStyle.ContentsType.CT_SpinBox, option, contents, self)


class ComboBox(QComboBox):
    """Shrinks with its column and leaves the wheel to the form unless it has the focus."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(10)

    def initStyleOption(self, option: QStyleOptionComboBox | None) -> None:
        """Elides the text, which napari's style would cut off."""
        super().initStyleOption(option)
        style = self.style()
        if option is not None and style is not None:
            field = QStyle.SubControl.SC_ComboBoxEditField
            room = style.subControlRect(QStyle.ComplexControl.CC_ComboBox, option, field, self).width() - 2 * _PADDING
            option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideRight, room)

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        elif event is not None:
            event.ignore()


def _stepper(facts: FieldFacts, whole: bool) -> Stepper:
    if facts.shown.by_magnitude:
        return one_two_five
    if whole:
        return by_magnitude
    if (facts.low, facts.high) == (0.0, 1.0):
        return steps_of(0.05)
    numbers = facts.default if isinstance(facts.default, tuple) else (facts.default,)
    typical = max((abs(number) for number in numbers if number), default=1.0)
    return steps_of(nice(typical / 10))


def shortest(value: float) -> str:
    """The shortest text that reads back as ``value``, without a needless ``.0``."""
    mantissa, e, exponent = repr(float(value)).partition("e")
    mantissa = mantissa.removesuffix(".0")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def steps_of(size: float) -> Stepper:
    """To the next multiple of ``size``."""

    def step(value: float, steps: int) -> float:
        position = value / size
        start = math.floor(position + 1e-9) if steps > 0 else math.ceil(position - 1e-9)
        return float(f"{(start + steps) * size:.12g}")  # 0.35, not 0.35000000000000003

    return step


_ONE_TWO_FIVE = [0.0, *(float(f"{factor}e{power}") for power in range(-6, 16) for factor in (1, 2, 5))]


def one_two_five(value: float, steps: int) -> float:
    """Along 0.001, 0.002, 0.005, 0.01, ..., from 0 on at 1e-6."""
    position = bisect_right(_ONE_TWO_FIVE, value) - 1 if steps > 0 else bisect_left(_ONE_TWO_FIVE, value)
    return _ONE_TWO_FIVE[min(max(position + steps, 0), len(_ONE_TWO_FIVE) - 1)]


def by_magnitude(value: float, steps: int) -> float:
    """By 1 below 100, by 10 below 1000, and so on."""
    for _ in range(abs(steps)):
        size = abs(value) - (1 if steps < 0 and value > 0 else 0)  # down from 100 goes to 99
        value += math.copysign(10 ** max(0, int(math.log10(max(size, 1))) - 1), steps)
    return value


def nice(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above ``value``, but for rounding."""
    return _ONE_TWO_FIVE[bisect_right(_ONE_TWO_FIVE, value * (1 + 1e-9)) - 1]
