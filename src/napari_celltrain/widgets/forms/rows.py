"""A heading that shows and hides what is below it.

What the tabs have in common: a column of groups that scrolls when the window is low.

The form made from the configuration: an editor for every field, and rows of them.

Help, ranges and choices are those of the fields themselves and of the registries; ``wording`` has the few words for
which the configuration has no place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin

from pydantic import BaseModel
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QGroupBox,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_celltrain.nets.losses import LOSSES
from napari_celltrain.nets.models import MODELS
from napari_celltrain.registry import Registry
from napari_celltrain.values.fields import FieldFacts, all_fields
from napari_celltrain.widgets.field_labels import choice_label, label_of, none_text, unit_of
from napari_celltrain.widgets.forms.editors import (
    Choice,
    ChoiceEditor,
    Editor,
    NumberEditor,
    NumbersEditor,
    OptionalEditor,
    PathEditor,
    RangeEditor,
    SwitchEditor,
    TextEditor,
)
from napari_celltrain.widgets.forms.inputs import (
    LARGEST,
    LARGEST_WHOLE,
    SMALLEST,
    NumberBox,
    Stepper,
    by_magnitude,
    nice,
    one_two_five,
    steps_of,
)
from napari_celltrain.widgets.theme import menu_text, plain_label, tooltip

_OPEN, _CLOSED = "▾", "▸"


class Fold(QWidget):
    """Folded at first.

    superqt's QCollapsible fixes the height of its contents when it opens, which cuts lines that wrap later, and draws
    its arrow in the palette's colour, which napari's dark theme does not set.
    """

    toggled = Signal()

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self.content = content
        self.button = QPushButton()
        self.button.setStyleSheet("text-align: left")
        self.button.clicked.connect(self._toggle)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(content)
        content.setVisible(False)
        self._renew()

    @property
    def is_open(self) -> bool:
        return not self.content.isHidden()

    def set_open(self, is_open: bool) -> None:
        if is_open != self.is_open:
            self.content.setVisible(is_open)
            self._renew()
            self.toggled.emit()

    def set_title(self, title: str) -> None:
        self._title = title
        self._renew()

    def _toggle(self) -> None:
        self.set_open(not self.is_open)

    def _renew(self) -> None:
        self.button.setText(menu_text(f"{_OPEN if self.is_open else _CLOSED}  {self._title}"))
        self.button.setAccessibleName(f"{self._title}, {'shown' if self.is_open else 'folded away'}")


# --- tab page --------------------------------------------------------------------------------------------

MAX_WIDTH = 780
"""Wider, lines of text and fields are tiring to read."""


class TabPage(QScrollArea):
    """Never scrolls sideways; its groups stay readable in a wide window."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # its contents can be reached by Tab
        self.page = QWidget()
        self.column = QVBoxLayout(self.page)
        self.column.setContentsMargins(6, 6, 6, 6)
        self.column.setSpacing(8)
        self.setWidget(self.page)

    def add_group(self, title: str, *widgets: QWidget) -> QGroupBox:
        group = QGroupBox(title)
        group.setMaximumWidth(MAX_WIDTH)
        layout = QVBoxLayout(group)
        layout.setContentsMargins(8, 10, 8, 8)
        layout.setSpacing(4)
        for widget in widgets:
            layout.addWidget(widget)
        self.column.addWidget(group)
        return group

    def end(self) -> None:
        """No more groups come: what is left of the height stays empty below them."""
        self.column.addStretch(1)


# --- forms -----------------------------------------------------------------------------------------------

# What the validators of these fields allow for each number; a test holds both against each other.
TUPLE_LIMITS: dict[str, tuple[float, float]] = {
    "augmentation.patch_size": (8, 1024),
    "data.voxel_size": (1e-6, 999_999.0),
    "augmentation.augmentations.affine.scaling": (0.11, 10),
    "augmentation.augmentations.elastic.magnitude": (0, LARGEST),
    "augmentation.augmentations.contrast.gamma": (SMALLEST, LARGEST),
    "augmentation.augmentations.blur.sigma": (0, LARGEST),
    "augmentation.augmentations.low_resolution.zoom": (0.051, 1),
}
_BY_MAGNITUDE = {"training.learning_rate", "training.weight_decay"}
_REGISTRIES: dict[str, Registry[Any]] = {"training.model": MODELS, "training.loss": LOSSES}
_WIDE = {"training.seed", "data.ignore_value"}
# What a value begins with when it stops being empty.
_STARTS: dict[str, Any] = {
    "data.ignore_value": 255,
    "data.voxel_size": (1.0, 1.0, 1.0),
    "data.memory_budget_gb": 4.0,
    "augmentation.patch_size": (64, 64, 64),
    "training.early_stopping": 10,
    "training.max_minutes": 60.0,
}


class ValueEditor(Protocol):
    """What a row of a form takes: an :class:`Editor`, or a widget of the same manners."""

    def value(self) -> Any: ...
    def setValue(self, value: Any) -> None: ...
    def set_problem(self, text: str | None) -> None: ...


def editor_for(path: str) -> Editor:
    """The editor of a field such as ``training.epochs``, showing its default, with its help as tooltip."""
    facts = all_fields()[path]
    editor = _inner_editor(facts)
    # Text and paths are empty by themselves; the others need a box for it.
    if facts.optional and not isinstance(editor, TextEditor | PathEditor):
        if path in _STARTS:
            editor.setValue(_STARTS[path])
        editor = OptionalEditor(editor, none_text(path))
    if facts.default is not None or facts.optional:
        editor.setValue(facts.default)
    editor.setToolTip(help_text(facts))
    editor.set_accessible_name(label_of(path))
    return editor


def help_text(facts: FieldFacts) -> str:
    """The field's help and its range, for a tooltip."""
    limits = "" if facts.path in _REGISTRIES or facts.choices else facts.range
    return f"{facts.help}\n{limits.capitalize()}." if limits else facts.help


def registry_choices(registry: Registry[Any]) -> list[Choice]:
    return [Choice(entry.key, entry.label, entry.help) for entry in registry]


def _inner_editor(facts: FieldFacts) -> Editor:
    path = facts.path
    if path in _REGISTRIES:
        return ChoiceEditor(registry_choices(_REGISTRIES[path]))
    if facts.choices:
        return ChoiceEditor([Choice(key, choice_label(key)) for key in facts.choices])
    if facts.type is bool:
        return SwitchEditor()
    if facts.type in (int, float):
        low, high = _bounds(facts)
        return NumberEditor(_number_box(facts, low, high), unit_of(path))
    if facts.type is Path:
        return PathEditor("either", history=path, placeholder=none_text(path) if facts.optional else "")
    if facts.type is str:
        return TextEditor(optional=facts.optional, placeholder=none_text(path) if facts.optional else "")
    if get_origin(facts.type) is tuple:
        return _tuple_editor(facts)
    raise TypeError(f"there is no editor for {facts.type} of {path}")


def _tuple_editor(facts: FieldFacts) -> Editor:
    low, high = TUPLE_LIMITS.get(facts.path, (-LARGEST, LARGEST))
    boxes = [_number_box(facts, low, high) for _ in get_args(facts.type)]
    unit = unit_of(facts.path)
    if len(boxes) == 2:
        return RangeEditor(boxes[0], boxes[1], unit)
    return NumbersEditor(boxes, "zyx", unit)


def _bounds(facts: FieldFacts) -> tuple[float, float]:
    """Of the spin box, which has closed and finite ones only."""
    largest = LARGEST_WHOLE if facts.type is int else LARGEST
    low = -largest if facts.low is None else facts.low + (SMALLEST if facts.low_excluded else 0)
    return low, largest if facts.high is None else facts.high


def _number_box(facts: FieldFacts, low: float, high: float) -> NumberBox:
    kinds = get_args(facts.type)
    whole = (kinds[0] if kinds else facts.type) is int
    is_tuple = bool(kinds)
    num_letters = 11 if facts.path in _WIDE else 5 if is_tuple else 7
    return NumberBox(low, high, whole=whole, step=_stepper(facts, whole), num_letters=num_letters)


def _stepper(facts: FieldFacts, whole: bool) -> Stepper:
    if facts.path in _BY_MAGNITUDE:
        return one_two_five
    if whole:
        return by_magnitude
    if (facts.low, facts.high) == (0.0, 1.0):
        return steps_of(0.05)
    numbers = facts.default if isinstance(facts.default, tuple) else (facts.default,)
    typical = max((abs(number) for number in numbers if number), default=1.0)
    return steps_of(nice(typical / 10))


class FieldRows(QWidget):
    """Rows of label and editor; where both do not fit side by side, the editor goes below its label.

    ``values()`` are the fields by name, ready for the section's class.
    """

    valueChanged = Signal()

    def __init__(self, paths: Iterable[str] = (), parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setHorizontalSpacing(6)
        self.form.setVerticalSpacing(2)
        self.form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.editors: dict[str, Any] = {}
        for path in paths:
            self.add(path)

    def add(self, path: str, editor: Any = None, label: str = "") -> Any:
        """Add the row of a field, with an ``editor`` of its own or the field's usual one, and give the editor."""
        if editor is None:
            editor = editor_for(path)
        name = QLabel(label or label_of(path))
        name.setTextFormat(Qt.TextFormat.PlainText)
        name.setBuddy(editor)
        name.setToolTip(tooltip(help_text(all_fields()[path])))
        self.form.addRow(name, editor)
        self.editors[path] = editor
        editor.valueChanged.connect(self._tell)
        return editor

    def add_widget(self, widget: QWidget) -> None:
        """A row over the whole width."""
        self.form.addRow(widget)

    def add_text(self, text: str = "") -> QLabel:
        """A paragraph over the whole width."""
        label = plain_label(text)
        label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.add_widget(label)
        return label

    def values(self) -> dict[str, Any]:
        return {path.rpartition(".")[2]: editor.value() for path, editor in self.editors.items()}

    def set_values(self, model: BaseModel) -> None:
        for path, editor in self.editors.items():
            editor.setValue(getattr(model, path.rpartition(".")[2]))

    def set_problems(self, problems: Mapping[str, str]) -> None:
        """Mark the fields in ``problems`` (text by path), and take the marks from all others."""
        for path, editor in self.editors.items():
            editor.set_problem(problems.get(path))

    def _tell(self) -> None:
        self.valueChanged.emit()
