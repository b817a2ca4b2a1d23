"""Which image layer and which labels layer of the viewer to train on.

The fields of the Data tab: every setting of :class:`DataConfig`, and the choice between folders and layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from magicgui.widgets import create_widget
from pydantic import ValidationError
from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QHBoxLayout,
    QLabel,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from napari_celltrain.io.volumes import VolumeCache
from napari_celltrain.runs.config_file import problems_of
from napari_celltrain.values.config import DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.fields import all_fields
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import Kind, PathEdit
from napari_celltrain.widgets.forms.rows import FieldRows, Fold, help_text
from napari_celltrain.widgets.layers import LayerSource, full_resolution, is_own, take_layers
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.theme import tooltip

# What the array and the voxel size of a layer follow from, and each stroke of the brush.
_EVENTS = ("data", "scale", "units", "paint")


class LayerChooser(QObject):
    """Two of magicgui's combo boxes, ``image.native`` and ``labels.native``, to be put into a form."""

    valueChanged = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._watched: list[Any] = []
        self._taken: tuple[tuple[Any, ...], LayerSource] | None = None
        self._num_changes = 0
        self.image = self._make("napari.layers.Image", self._image_layers)
        self.labels = self._make("napari.layers.Labels", self._labels_layers)
        self._offered = self._on_offer()

    @property
    def widgets(self) -> tuple[QWidget, QWidget]:
        return self.image.native, self.labels.native

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        before_that, self._offered = self._offered, self._on_offer()
        if before_that == self._offered:
            return  # only layers of the plugin's own have come or gone
        before = self._chosen()
        self.image.reset_choices()
        self.labels.reset_choices()
        if self._chosen() != before or self._chosen() != self._watched:
            self._choose()  # magicgui is silent where nothing is left to choose

    def take(self, config: DataConfig) -> LayerSource:
        """What is chosen, as volumes: the same object as before unless something has changed.

        Raises :class:`DataError`.
        """
        key = (config.voxel_size, config.axes, config.channel, *self._state())
        if self._taken is None or self._taken[0] != key:
            self._taken = None  # hold no array any more where the next line refuses
            self._taken = (key, take_layers(self.image.value, self.labels.value, config))
        return self._taken[1]

    def _make(self, annotation: str, choices: Any) -> Any:
        box: Any = create_widget(annotation=annotation, options={"nullable": False, "choices": choices})
        box.native.setMinimumWidth(60)
        box.changed.connect(self._choose)
        return box

    def _on_offer(self) -> list[tuple[int, str]]:
        return [(id(layer), layer.name) for layer in (*self._image_layers(), *self._labels_layers())]

    def _image_layers(self, *_: Any) -> list[Any]:
        return self._layers("image")

    def _labels_layers(self, *_: Any) -> list[Any]:
        return self._layers("labels")

    def _layers(self, kind: str) -> list[Any]:
        """Those of the viewer but for the plugin's own, the topmost first."""
        return [layer for layer in reversed(self._viewer.layers) if layer._type_string == kind and not is_own(layer)]

    def _choose(self, *_: Any) -> None:
        for layer in self._watched:
            for name in _EVENTS:
                if hasattr(layer.events, name):
                    getattr(layer.events, name).disconnect(self._touch)
        self._watched = self._chosen()
        for layer in self._watched:
            for name in _EVENTS:
                if hasattr(layer.events, name):
                    getattr(layer.events, name).connect(self._touch)
        self.valueChanged.emit()

    def _touch(self, *_: Any) -> None:
        self._num_changes += 1
        self.valueChanged.emit()

    def _chosen(self) -> list[Any]:
        return [layer for layer in (self.image.value, self.labels.value) if layer is not None]

    def _state(self) -> tuple[Any, ...]:
        layers = self._chosen()
        return (self._num_changes, *((id(layer), id(full_resolution(layer)), layer.name) for layer in layers))


# --- data form -------------------------------------------------------------------------------------------

Source = Literal["folders", "layers"]

_MORE = ("channel", "voxel_size", "ignore_value", "axes", "normalization", "memory_budget_gb")
_SHARE, _FOLDERS = "share", "folders"


class DataForm(QWidget):
    """Edits a :class:`DataConfig`; with layers as source its ``images`` and ``labels`` are None."""

    valueChanged = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows = FieldRows()
        self.layers = LayerChooser(viewer, self)
        self._add_source()
        self._add_paths()
        self.rows.add("data.label_kind")
        self._add_validation()
        self._add_path("results", "folder", "Folder for the results")
        self.rows.editors["data.results"].setValue(preferences().results_folder)
        self.more_rows = self._make_more()
        self.more = Fold("More settings", self.more_rows)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.rows)
        layout.addWidget(self.more)
        self._show_rows()
        for source in (self.rows, self.more_rows, self.layers):
            source.valueChanged.connect(self._tell)

    def value(self) -> DataConfig:
        return self._build()[0]

    def setValue(self, value: DataConfig) -> None:
        before = self.value()
        with QSignalBlocker(self):
            if value.images is not None or value.labels is not None:
                self.set_source("folders")
            self.validation_box.setCurrentIndex(self.validation_box.findData(_mode_of(value)))
            self.rows.set_values(value)
            self.more_rows.set_values(value)
        if self.value() != before:
            self.valueChanged.emit()

    def source(self) -> Source:
        return "layers" if self.layers_button.isChecked() else "folders"

    def set_source(self, source: Source) -> None:
        (self.layers_button if source == "layers" else self.folders_button).setChecked(True)

    def take_layers(self, config: DataConfig) -> LayerSource | None:
        """The layers chosen, where they are the source. Raises :class:`DataError`."""
        return self.layers.take(config) if self.source() == "layers" else None

    def is_untouched(self) -> bool:
        """Whether nothing has been chosen yet."""
        images, labels = self.rows.editors["data.images"].value(), self.rows.editors["data.labels"].value()
        return self.source() == "folders" and images is None and labels is None

    def problems(self) -> list[Problem]:
        """What is missing or contradictory, before anything is read."""
        config, problems = self._build()
        if self.source() == "layers":
            try:
                self.layers.take(config)
            except DataError as error:
                problems += [replace(problem, code="layers") for problem in error.problems]
        else:
            problems += [
                Problem(f"no-{name}", name, f"No folder of {name} is chosen.", "Choose one, or drop it on its field.")
                for name in ("images", "labels")
                if getattr(config, name) is None
            ]
        if self.rows.editors["data.results"].value() is None:
            problems.append(Problem("no-results", "results", "No folder for the results is chosen.", "Choose one."))
        return problems + self._half_given()

    def mark(self, problems: Iterable[Problem]) -> None:
        """Frame the fields that ``problems`` are about, by their name or by the folder they name."""
        texts: dict[str, str] = {}
        for problem in problems:
            if problem.severity == "error":
                for name in self._fields_of(problem):
                    texts.setdefault(f"data.{name}", f"{problem.message} {problem.remedy}")
        self.rows.set_problems(texts)
        self.more_rows.set_problems(texts)
        if set(texts) & set(self.more_rows.editors):
            self.more.set_open(True)

    def propose_voxel_size(self, size: Spacing) -> None:
        """What the field begins with when someone wants another one than the files tell."""
        self.more_rows.editors["data.voxel_size"].propose(size)

    def _fields_of(self, problem: Problem) -> list[str]:
        editors = self.rows.editors | self.more_rows.editors
        name = problem.where.rpartition(".")[2] if problem.where.startswith("data.") else problem.where
        if f"data.{name}" in editors:
            return [name]
        if problem.code in ("no-volumes", "same-folder"):
            paths = {path.rpartition(".")[2]: editor.value() for path, editor in editors.items()}
            return [name for name in _PATHS if paths[name] and problem.where in (paths[name].name, str(paths[name]))]
        return [path.removeprefix("data.") for path in problem.settings if path in editors]

    def _half_given(self) -> list[Problem]:
        if self.validation_box.currentData() != _FOLDERS or self.source() == "layers":
            return []
        missing = [name for name in _VALIDATION if self.rows.editors[f"data.{name}"].value() is None]
        return [
            Problem(
                "incomplete-validation",
                name,
                "Validation has no folder of " + name.rpartition("_")[2] + ".",
                "Choose it, or hold out a share of the volumes.",
            )
            for name in missing
        ]

    def _build(self) -> tuple[DataConfig, list[Problem]]:
        """The value, with the defaults in place of what cannot be, and why it cannot."""
        values = {**self.rows.values(), **self.more_rows.values()}
        if values["results"] is None:
            del values["results"]
        if self.source() == "layers":
            values |= {"images": None, "labels": None}
        own = self.validation_box.currentData() == _FOLDERS and self.source() == "folders"
        if not own or self._half_given():
            values |= dict.fromkeys(_VALIDATION)
        try:
            return DataConfig(**values), []
        except ValidationError as error:
            wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
            good = {name: value for name, value in values.items() if name not in wrong}
            return DataConfig(**good), problems_of(error)

    def _add_source(self) -> None:
        self.folders_button = QRadioButton("Folders")
        self.layers_button = QRadioButton("Open layers")
        self.folders_button.setToolTip(tooltip("Train on the volumes of a folder"))
        self.layers_button.setToolTip(tooltip("Train on an image layer and a labels layer of this viewer"))
        self._sources = QButtonGroup(self)
        holder = QWidget()
        line = QHBoxLayout(holder)
        line.setContentsMargins(2, 2, 2, 2)
        for button in (self.folders_button, self.layers_button):
            self._sources.addButton(button)
            line.addWidget(button)
        line.addStretch(1)
        self.folders_button.setChecked(True)
        self.rows.form.addRow(QLabel("Train on"), holder)
        self.layers_button.toggled.connect(self._switch)

    def _add_paths(self) -> None:
        self._add_path("images", "either", "Folder of the images")
        self._add_path("labels", "either", "Folder of the labels")
        self._layer_rows = (
            self._add_box("Image layer", self.layers.widgets[0], "A layer of three axes; its scale is the voxel size"),
            self._add_box("Labels layer", self.layers.widgets[1], "The labels of the image"),
        )

    def _add_box(self, text: str, box: QWidget, explanation: str) -> QWidget:
        """A row whose field is none of the configuration; gives what can be hidden."""
        label = QLabel(text)
        label.setBuddy(box)
        box.setAccessibleName(text)
        for widget in (label, box):
            widget.setToolTip(tooltip(explanation))
        self.rows.form.addRow(label, box)
        return box

    def _add_path(self, name: str, kind: Kind, caption: str, label: str = "") -> None:
        editor = PathEdit(kind, history=name.rpartition("_")[2], placeholder="Choose or drop a folder")
        editor.setToolTip(help_text(all_fields()[f"data.{name}"]))
        editor.set_accessible_name(caption)
        self.rows.add(f"data.{name}", editor, label)

    def _add_validation(self) -> None:
        self.validation_box = ComboBox()
        self.validation_box.addItem("A share of the volumes", _SHARE)
        self.validation_box.addItem("Folders of its own", _FOLDERS)
        explanation = "What tells how good the model is: volumes that are never trained on"
        self._add_box("Validation", self.validation_box, explanation)
        self.rows.add("data.validation_fraction")
        self._add_path("validation_images", "either", "Folder of images for validation", "… images")
        self._add_path("validation_labels", "either", "Folder of labels for validation", "… labels")
        self.validation_box.currentIndexChanged.connect(self._switch)

    def _make_more(self) -> FieldRows:
        rows = FieldRows(f"data.{name}" for name in _MORE)
        for box in rows.editors["data.voxel_size"].inner.boxes:  # three with buttons are too wide for a dock
            box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            box.setStyleSheet("min-width: 40px")  # napari's own style sheet demands more
        rows.editors["data.memory_budget_gb"].propose(round(VolumeCache.default_budget(DataConfig()) / 1e9, 1))
        return rows

    def _switch(self, *_: Any) -> None:
        self._show_rows()
        self._tell()

    def _show_rows(self) -> None:
        layers = self.source() == "layers"
        own = self.validation_box.currentData() == _FOLDERS and not layers
        self.validation_box.setEnabled(not layers)  # one pair of layers is cut in two
        shown = {
            "images": not layers,
            "labels": not layers,
            "validation_fraction": not own,
            "validation_images": own,
            "validation_labels": own,
        }
        for name, visible in shown.items():
            self._show_row(self.rows.editors[f"data.{name}"], visible)
        for row in self._layer_rows:
            self._show_row(row, layers)

    def _show_row(self, editor: QWidget, visible: bool) -> None:
        label = self.rows.form.labelForField(editor)
        assert label is not None
        label.setVisible(visible)
        editor.setVisible(visible)

    def _tell(self) -> None:
        self.valueChanged.emit()


_VALIDATION = ("validation_images", "validation_labels")
_PATHS = ("images", "labels", *_VALIDATION)


def _mode_of(config: DataConfig) -> str:
    return _SHARE if config.validation_images is None else _FOLDERS
