"""The form made from the configuration: an editor for every field, rows of them, and what holds the rows.

Labels, help, ranges and choices are those of the fields themselves and of the registries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QGroupBox,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_celltrain.nets.losses import LOSSES
from napari_celltrain.nets.models import MODELS
from napari_celltrain.registry import Registry
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.fields import FieldFacts, all_fields
from napari_celltrain.widgets.forms.editors import (
    Choice,
    ChoiceEditor,
    Editor,
    NumberEditor,
    NumbersEditor,
    OptionalEditor,
    RangeEditor,
    SwitchEditor,
    TextEditor,
)
from napari_celltrain.widgets.forms.path_edit import PathEdit
from napari_celltrain.widgets.theme import fill, menu_text, tooltip

_REGISTRIES: dict[str, Registry[Any]] = {"training.model": MODELS, "training.loss": LOSSES}


def editor_for(path: str, model: type[BaseModel] = RunConfig) -> Editor:
    """The editor of a field such as ``training.epochs``, showing its default, with its help as tooltip."""
    facts = all_fields(model)[path]
    editor = _inner_editor(facts)
    # Text and paths are empty by themselves; the others need a box for it.
    if facts.optional and not isinstance(editor, TextEditor | PathEdit):
        if facts.shown.start is not None:
            editor.setValue(facts.shown.start)
        editor = OptionalEditor(editor, facts.shown.empty)
    if facts.default is not None or facts.optional:
        editor.setValue(facts.default)
    editor.setToolTip(help_text(facts))
    return editor


def help_text(facts: FieldFacts) -> str:
    """The field's help and its range, for a tooltip."""
    if not facts.range or facts.path in _REGISTRIES:
        return facts.help
    low, high = facts.low or 0.0, facts.high or 1.0
    limits = f"from {100 * low:.0f} to {100 * high:.0f} %" if facts.shown.unit == "%" else facts.range
    return f"{facts.help}\n{limits.capitalize()}."


def _inner_editor(facts: FieldFacts) -> Editor:
    path, empty = facts.path, facts.shown.empty if facts.optional else ""
    if path in _REGISTRIES:
        return ChoiceEditor([Choice(entry.key, entry.label, entry.help) for entry in _REGISTRIES[path]])
    if facts.choices:
        return ChoiceEditor([Choice(key, facts.choice_label(key)) for key in facts.choices])
    if facts.type is bool:
        return SwitchEditor()
    if facts.type in (int, float):
        return NumberEditor(facts)
    if facts.type is Path:
        return PathEdit("either", history=path, placeholder=empty)
    if facts.type is str:
        return TextEditor(optional=facts.optional, placeholder=empty)
    if get_origin(facts.type) is tuple:
        return RangeEditor(facts) if len(get_args(facts.type)) == 2 else NumbersEditor(facts)
    raise TypeError(f"there is no editor for {facts.type} of {path}")


class FieldRows(QWidget):
    """Rows of label and editor; where both do not fit side by side, the editor goes below its label.

    ``values()`` are the fields of ``model`` by name, ready for the section's class.
    """

    valueChanged = Signal()

    def __init__(self, paths: Iterable[str] = (), *, model: type[BaseModel] = RunConfig) -> None:
        super().__init__()
        self._model = model
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setHorizontalSpacing(6)
        self.form.setVerticalSpacing(5)
        self.form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.editors: dict[str, Any] = {}
        for path in paths:
            self.add(path)

    def add(self, path: str, editor: Any = None, label: str = "") -> Any:
        """Add the row of a field, with an ``editor`` of its own or the field's usual one, and return the editor."""
        facts = all_fields(self._model)[path]
        if editor is None:
            editor = editor_for(path, self._model)
        self.add_control(label or facts.label, editor, help_text(facts))
        self.editors[path] = editor
        editor.valueChanged.connect(self.valueChanged)
        return editor

    def add_control(self, label: str, control: QWidget, explanation: str = "") -> None:
        """A row whose control may be that of no field."""
        name = QLabel(label)
        name.setTextFormat(Qt.TextFormat.PlainText)
        name.setBuddy(control)
        name.setToolTip(tooltip(explanation))
        if isinstance(control, Editor):
            control.setToolTip(explanation)
            control.set_accessible_name(label)
        self.form.addRow(name, control)

    def values(self) -> dict[str, Any]:
        return {path.rpartition(".")[2]: editor.value() for path, editor in self.editors.items()}

    def set_values(self, model: BaseModel) -> None:
        for path, editor in self.editors.items():
            editor.setValue(getattr(model, path.rpartition(".")[2]))

    def set_problems(self, problems: Mapping[str, str]) -> None:
        """Mark the fields in ``problems`` (text by path), and take the marks from all others."""
        for path, editor in self.editors.items():
            editor.set_problem(problems.get(path))


class Fold(QWidget):
    """Folded at first.

    superqt's QCollapsible fixes the height of its contents when it opens, which cuts lines that wrap later, and draws
    its arrow in the palette's colour, which napari's dark theme does not set.
    """

    toggled = Signal()

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__()
        self._title = title
        self.content = content
        self.button = QPushButton()
        self.button.setStyleSheet("text-align: left")
        self.button.clicked.connect(self._toggle)
        fill(QVBoxLayout(self), self.button, content, spacing=2)
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
        self.button.setText(menu_text(f"{'▾' if self.is_open else '▸'}  {self._title}"))
        self.button.setAccessibleName(f"{self._title}, {'shown' if self.is_open else 'folded away'}")


class TabPage(QScrollArea):
    """Never scrolls sideways; its groups stay readable in a wide window."""

    def __init__(self) -> None:
        super().__init__()
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
        group.setMaximumWidth(780)  # wider, lines of text and fields are tiring to read
        fill(QVBoxLayout(group), *widgets, spacing=4).setContentsMargins(8, 10, 8, 8)
        self.column.addWidget(group)
        return group
