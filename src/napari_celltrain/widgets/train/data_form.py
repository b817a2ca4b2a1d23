"""The fields of the Data tab: every setting of :class:`DataConfig`, and the choice between folders and layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QAbstractSpinBox, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from napari_celltrain.io.volumes import VolumeCache
from napari_celltrain.runs.config_file import problems_of, setting_problems
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import Kind, PathEdit
from napari_celltrain.widgets.forms.rows import FieldRows, Fold
from napari_celltrain.widgets.layers import LayerData, take_layers
from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.segment.input_panel import LayerBox
from napari_celltrain.widgets.theme import fill, tooltip

_MORE = ("channel", "voxel_size", "ignore_value", "axes", "normalization", "limit_outliers", "memory_budget_gb")
_VALIDATION = ("validation_images", "validation_labels")
_SHARE, _FOLDERS = range(2)  # entries of the choice of validation


class DataForm(QWidget):
    """Edits a :class:`DataConfig`; with layers as source its ``images`` and ``labels`` are None.

    ``valueChanged`` comes with each stroke of the brush in the labels layer, too.
    """

    valueChanged = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._taken: tuple[tuple[Any, ...], LayerData] | None = None
        self._num_edits = 0  # of the layers
        self.rows = FieldRows()
        self.folders_button = QRadioButton("Folders")
        self.layers_button = QRadioButton("Open layers")
        self.folders_button.setToolTip(tooltip("Train on the volumes of a folder"))
        self.layers_button.setToolTip(tooltip("Train on an image layer and a labels layer of this viewer"))
        self.folders_button.setChecked(True)
        source = QWidget()
        fill(QHBoxLayout(source), self.folders_button, self.layers_button, None).setContentsMargins(2, 2, 2, 2)
        self.rows.add_control("Train on", source)
        self._add_path("images", "Folder of the images")
        self._add_path("labels", "Folder of the labels")
        self.image_layer = self._add_layer(viewer, "image", "A layer of three axes; its scale is the voxel size")
        self.labels_layer = self._add_layer(viewer, "labels", "The labels of the image")
        self.rows.add("data.label_kind")
        self.validation_box = ComboBox()
        self.validation_box.addItems(["A share of the volumes", "Folders of its own"])
        self.validation_box.setAccessibleName("Validation")
        self.rows.add_control("Validation", self.validation_box, "Volumes that show how good the model is on new data")
        self.rows.add("data.validation_fraction")
        self._add_path("validation_images", "Folder of images for validation", "… images")
        self._add_path("validation_labels", "Folder of labels for validation", "… labels")
        self._add_path("results", "Folder for the results", kind="folder")
        self.rows.editors["data.results"].setValue(preferences().results_folder)
        self.more_rows = FieldRows(f"data.{name}" for name in _MORE)
        for box in self.more_rows.editors["data.voxel_size"].inner.boxes:  # three with buttons are too wide for a dock
            box.setButtonSymbols(QAbstractSpinBox.ButtonSymbols.NoButtons)
            box.setStyleSheet("min-width: 40px")  # napari's own style sheet demands more
        memory = VolumeCache.default_budget(DataConfig())
        self.more_rows.editors["data.memory_budget_gb"].propose(round(memory / 1e9, 1))
        self.more = Fold("More settings", self.more_rows)
        fill(QVBoxLayout(self), self.rows, self.more, spacing=2)
        self._switch()
        self.layers_button.toggled.connect(self._switch)
        self.validation_box.currentIndexChanged.connect(self._switch)
        for rows in (self.rows, self.more_rows):
            rows.valueChanged.connect(self.valueChanged)

    def value(self) -> DataConfig:
        return self._build()[0]

    def setValue(self, value: DataConfig) -> None:
        before = self.value()
        with QSignalBlocker(self):
            if value.images is not None or value.labels is not None:
                self.folders_button.setChecked(True)
            self.validation_box.setCurrentIndex(_SHARE if value.validation_images is None else _FOLDERS)
            self.rows.set_values(value)
            self.more_rows.set_values(value)
        if self.value() != before:
            self.valueChanged.emit()

    def source(self) -> Literal["folders", "layers"]:
        return "layers" if self.layers_button.isChecked() else "folders"

    def reset_choices(self) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        self.image_layer.reset_choices()
        self.labels_layer.reset_choices()

    def take_layers(self, config: DataConfig) -> LayerData | None:
        """The layers chosen, where they are the source: the same object as before unless something has changed.

        Raises :class:`DataError`.
        """
        if self.source() == "folders":
            return None
        key = (config.voxel_size, config.axes, config.channel, self._num_edits)
        if self._taken is None or self._taken[0] != key:
            self._taken = None  # hold no array any more where the next line refuses
            self._taken = (key, take_layers(self.image_layer.value(), self.labels_layer.value(), config))
        return self._taken[1]

    def is_untouched(self) -> bool:
        """Whether nothing has been chosen yet."""
        chosen = [self.rows.editors[f"data.{name}"].value() for name in ("images", "labels")]
        return self.source() == "folders" and chosen == [None, None]

    def problems(self) -> list[Problem]:
        """What is missing or contradictory, before anything is read; ``where`` of each is the name of its field."""
        config, problems = self._build()
        settings = setting_problems(RunConfig(data=config))
        if self.source() == "layers":
            settings = [problem for problem in settings if problem.code != "missing-folder"]
            try:
                self.take_layers(config)
            except DataError as error:
                problems += [replace(problem, code="layers") for problem in error.problems]
        problems += [replace(problem, where=problem.where.removeprefix("data.")) for problem in settings]
        if self.rows.editors["data.results"].value() is None:
            problems.append(Problem("no-results", "results", "No folder for the results is chosen.", "Choose one."))
        for name in _VALIDATION if self._has_own_validation() else ():
            if self.rows.editors[f"data.{name}"].value() is None:
                message = f"Validation has no folder of {name.rpartition('_')[2]}."
                remedy = "Choose it, or keep a share of the volumes for validation."
                problems.append(Problem("incomplete-validation", name, message, remedy))
        return problems

    def mark(self, problems: Iterable[Problem]) -> None:
        """Frame the fields that ``problems`` are about, by name or as fields that help."""
        texts: dict[str, str] = {}
        for problem in problems:
            if problem.severity == "error":
                named = f"data.{problem.where.removeprefix('data.')}"
                for path in [named] if named in self.rows.editors | self.more_rows.editors else problem.settings:
                    texts.setdefault(path, f"{problem.message} {problem.remedy}".strip())
        self.rows.set_problems(texts)
        self.more_rows.set_problems(texts)
        if set(texts) & set(self.more_rows.editors):
            self.more.set_open(True)

    def _has_own_validation(self) -> bool:
        return self.validation_box.currentIndex() == _FOLDERS and self.source() == "folders"

    def _build(self) -> tuple[DataConfig, list[Problem]]:
        """The value, with the defaults in place of what cannot be, and why it cannot."""
        values = {**self.rows.values(), **self.more_rows.values()}
        if values["results"] is None:
            del values["results"]
        if self.source() == "layers":
            values |= {"images": None, "labels": None}
        if not self._has_own_validation() or None in map(values.get, _VALIDATION):
            values |= dict.fromkeys(_VALIDATION)
        try:
            return DataConfig(**values), []
        except ValidationError as error:
            wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
            good = {name: value for name, value in values.items() if name not in wrong}
            return DataConfig(**good), problems_of(error)

    def _add_layer(self, viewer: Any, kind: Literal["image", "labels"], explanation: str) -> LayerBox:
        name = f"{kind.capitalize()} layer"
        box = LayerBox(viewer, kind, name, explanation)
        self.rows.add_control(name, box, explanation)
        box.valueChanged.connect(self._note_edit)
        box.edited.connect(self._note_edit)
        return box

    def _note_edit(self) -> None:
        self._num_edits += 1
        self.valueChanged.emit()

    def _add_path(self, name: str, caption: str, label: str = "", kind: Kind = "either") -> None:
        editor = PathEdit(kind, history=name.rpartition("_")[2], placeholder="Choose or drop a folder")
        self.rows.add(f"data.{name}", editor, label).set_accessible_name(caption)

    def _switch(self, *_: Any) -> None:
        """Show the rows of what is chosen."""
        layers, own = self.source() == "layers", self._has_own_validation()
        self.validation_box.setEnabled(not layers)  # one pair of layers is cut in two
        shown = {"images": not layers, "labels": not layers, **dict.fromkeys(_VALIDATION, own)}
        for name, is_shown in {**shown, "validation_fraction": not own}.items():
            self.rows.form.setRowVisible(self.rows.editors[f"data.{name}"], is_shown)
        for box in (self.image_layer, self.labels_layer):
            self.rows.form.setRowVisible(box, layers)
        self.valueChanged.emit()
