"""Models that were trained or used lately: what the list of recent ones is made of; for a worker thread.

What is told of a model before it is used.

Which model to use: a recent one, or one that is browsed for; and what is known about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from napari_celltrain.nets.models import MODELS
from napari_celltrain.runs.model import CARD, ModelCard, read_card
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.text import count, scores
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import PathEdit, recent_paths, remember_path
from napari_celltrain.widgets.preferences import last_run, preferences
from napari_celltrain.widgets.theme import plain_label, theme_color, tooltip

MAX_MODELS = 20
_MAX_LOOKED_AT = 200
"""Runs of one results folder: on a network disk each costs a moment."""
_RESULTS_HISTORY = "data.results"
HISTORY = "segment.model"


@dataclass(frozen=True, slots=True)
class RecentModel:
    path: Path
    """The run folder, or what the user has chosen."""
    name: str
    when: datetime
    score: str
    """Such as ``Dice 0.9130, F1 0.8700``."""


def places() -> tuple[list[Path], list[Path]]:
    """Folders of results, and models that were used lately; asked of the settings, in the thread of the window."""
    latest = last_run()
    results = [preferences().results_folder, *recent_paths(_RESULTS_HISTORY), *([latest.parent] if latest else [])]
    return list(dict.fromkeys(results)), recent_paths(HISTORY)


def find_models(results: Iterable[Path], used: Iterable[Path]) -> list[RecentModel]:
    """The newest first. What cannot be read is left out: nobody has asked for it."""
    found: dict[Path, RecentModel] = {}
    for path in (*_runs_in(results), *used):
        with contextlib.suppress(CellTrainError, OSError):
            card = read_card(path)
            found.setdefault(path.resolve(), RecentModel(path, name_of(card, path), _changed(path), score_of(card)))
    return sorted(found.values(), key=lambda model: model.when, reverse=True)[:MAX_MODELS]


def remember_model(path: Path) -> None:
    remember_path(HISTORY, path)


def name_of(card: ModelCard, path: Path) -> str:
    """The run that the model is of; a renamed folder or file goes by its new name."""
    if path.name in ("model", CARD):
        return card.training.run
    return path.name.removesuffix(".zip") or card.training.run


def score_of(card: ModelCard) -> str:
    return scores(card.training.validation_dice, card.training.validation_f1)


def _runs_in(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        with contextlib.suppress(OSError):
            runs = [run for run in folder.iterdir() if (run / "model" / CARD).is_file()]
            yield from sorted(runs, key=_changed, reverse=True)[:_MAX_LOOKED_AT]


def _changed(path: Path) -> datetime:
    card = path / "model" / CARD
    return datetime.fromtimestamp((card if card.exists() else path).stat().st_mtime).astimezone()


# --- card facts ------------------------------------------------------------------------------------------

METHODS = {
    "components": ("connected pieces", "Touching cells stay together."),
    "watershed": ("watershed of the shape", "Touching cells are parted where the foreground has a waist."),
    "learned": ("learned borders", "Touching cells are parted where the network sees a border."),
}
"""Label and a line of help of each way from maps to objects."""


def facts_of(card: ModelCard) -> list[tuple[str, str]]:
    """Pairs of a heading and a text, for people."""
    training = card.training
    facts = [
        ("Network", f"{MODELS[card.network.key].label}, {card.network.size}"),
        ("Gives", _what_it_gives(card)),
        ("Trained on", f"{count(training.num_training, 'volume')}, best at epoch {training.epoch}"),
        ("Scores", f"{score_of(card)} on {count(training.num_validation, 'validation volume')}"),
        ("Voxel size", f"{um(card.voxel_size)} (z, y, x)" if card.voxel_size else "unknown"),
    ]
    if card.channel is not None:
        facts.append(("Channel", f"{card.channel} (count from 0)"))
    if card.label_kind == "objects":
        facts.append(("Objects", _decoding(card)))
    return facts


def um(size: Spacing | None) -> str:
    """For people; `` × `` between z, y and x."""
    if size is None:
        return "unknown size"
    return " × ".join(f"{value:.3g}" for value in size) + " µm"


def _what_it_gives(card: ModelCard) -> str:
    if card.label_kind == "classes":
        return f"{len(card.class_values)} classes, of the values {', '.join(map(str, card.class_values))}"
    if card.label_kind == "foreground":
        return "foreground and background"
    return "numbered objects" + (", told apart by what it has learned" if card.target == "objects" else "")


def _decoding(card: ModelCard) -> str:
    decoding = card.decoding
    parts = [f"{METHODS[decoding.method][0]}, threshold {card.threshold:.3g}"]
    if decoding.method != "components":
        parts.append(f"seeds {decoding.seed_distance_um:.3g} µm apart")
    if decoding.min_size_um3 > 0:
        parts.append(f"from {decoding.min_size_um3:.3g} µm³")
    return ", ".join(parts)


# --- model panel -----------------------------------------------------------------------------------------

_NONE_CHOSEN = "Recent models …"
_NONE_YET = "No recent models"
_INVITATION = "Choose a model: a recent one, or the folder of a run."
_READING = "Reading …"
_TEXT_MARGIN = 6  # as napari's theme keeps around the text
_FILTER = "Models (*.yaml *.safetensors *.zip);;All files (*)"


class ModelPanel(QWidget):
    """Edits the path of a model. ``card`` is what its file says, read in the background; None until it can be used."""

    cardChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.card: ModelCard | None = None
        self.problem = ""
        """Why the model cannot be used; empty while nothing is wrong."""
        self._recent: list[RecentModel] = []
        self.recent = _ElidedBox()
        self.recent.setAccessibleName("Recent models")
        self.recent.setToolTip(tooltip("Models of the recent results folders, the newest first"))
        self.path = PathEdit(
            "either",
            caption="Choose a run or a model",
            file_filter=_FILTER,
            history=HISTORY,
            placeholder="Run or model",
        )
        self.path.set_accessible_name("Run folder or model")
        self.path.setToolTip("A run folder, its model folder, a model.yaml, or an exported model (zip).")
        self.message = plain_label(_INVITATION)
        self.message.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.facts = _Facts()
        self._reader = Background("Reading the model", self)
        self._finder = Background("Looking for models", self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self.recent, self.path, self.message, self.facts):
            layout.addWidget(widget)
        self.recent.activated.connect(self._take_recent)
        self.path.valueChanged.connect(self.read)
        self._reader.answered.connect(self._show_card)
        self._reader.failed.connect(self._show_problem)
        self._finder.answered.connect(self._show_recent)
        self._show_recent([])

    def value(self) -> Path | None:
        return self.path.value()

    def setValue(self, path: Path | None) -> None:
        self.path.setValue(path)

    @property
    def name(self) -> str:
        """What the model is called in the names of its results."""
        path = self.value()
        return "" if self.card is None or path is None else name_of(self.card, path)

    @property
    def is_busy(self) -> bool:
        return self._reader.is_busy

    def look(self) -> None:
        """Find the recent models again."""
        results, used = places()
        self._finder.start(lambda job: find_models(results, used))

    def read(self) -> None:
        """Read the model anew: it may have been trained on since."""
        path = self.value()
        self._set_card(None)
        self._select(path)
        self.path.set_problem(None)
        self.problem = ""
        if path is None:
            self._reader.cancel()
            self._say(_INVITATION)
            return
        self._say(_READING)
        self._reader.start(lambda job: read_card(path))

    def changeEvent(self, event: Any) -> None:
        super().changeEvent(event)
        if event is not None and event.type() == event.Type.StyleChange and hasattr(self, "message"):
            self._paint()

    def _show_card(self, card: ModelCard) -> None:
        path = self.value()
        assert path is not None
        self._say("")
        remember_model(path)
        self._set_card(card)

    def _show_problem(self, message: str) -> None:
        self.problem = message
        self.path.set_problem(message)
        self._say(message)
        self.cardChanged.emit()

    def _set_card(self, card: ModelCard | None) -> None:
        changed = card is not self.card
        self.card = card
        self.facts.set_facts(facts_of(card) if card is not None else [])
        if changed:
            self.cardChanged.emit()

    def _say(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))
        self._paint()

    def _paint(self) -> None:
        """Errors in the colour that the theme has for them."""
        style = f"color: {theme_color('error').name()}" if self.problem else ""
        if self.message.styleSheet() != style:
            self.message.setStyleSheet(style)

    def _show_recent(self, models: list[RecentModel]) -> None:
        self._recent = models
        with QSignalBlocker(self.recent):
            self.recent.clear()
            self.recent.addItem(_NONE_CHOSEN if models else _NONE_YET)
            for model in models:
                self.recent.addItem(f"{model.name}   {model.score}", model.path)
                help_text = f"{model.path}\n{model.when:%Y-%m-%d %H:%M}, {model.score}"
                self.recent.setItemData(self.recent.count() - 1, tooltip(help_text), Qt.ItemDataRole.ToolTipRole)
        self.recent.setEnabled(bool(models))
        self._select(self.value())

    def _select(self, path: Path | None) -> None:
        index = next((n for n, model in enumerate(self._recent, start=1) if model.path == path), 0)
        with QSignalBlocker(self.recent):
            self.recent.setCurrentIndex(index)

    def _take_recent(self, index: int) -> None:
        path = self.recent.itemData(index)
        if path is not None and path != self.value():
            self.setValue(path)


class _ElidedBox(ComboBox):
    """Elides what it shows where its style would cut it off."""

    def paintEvent(self, event: QPaintEvent | None) -> None:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        painter = QStylePainter(self)
        field = QStyle.SubControl.SC_ComboBoxEditField
        style = self.style()
        assert style is not None
        area = style.subControlRect(QStyle.ComplexControl.CC_ComboBox, option, field, self)
        room = area.width() - 2 * _TEXT_MARGIN
        option.currentText = self.fontMetrics().elidedText(self.currentText(), Qt.TextElideMode.ElideRight, room)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


class _Facts(QWidget):
    """Headings with a text behind each, wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 2, 0, 2)
        self._form.setHorizontalSpacing(8)
        self._form.setVerticalSpacing(1)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)

    def text(self) -> str:
        labels = self.findChildren(QLabel)
        return "\n".join(label.text() for label in labels)

    def set_facts(self, facts: list[tuple[str, str]]) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        for heading, text in facts:
            name = QLabel(heading)
            name.setAlignment(Qt.AlignmentFlag.AlignTop)
            name.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
            shown = plain_label(text)
            shown.setAlignment(Qt.AlignmentFlag.AlignTop)
            self._form.addRow(name, shown)
        self.setVisible(bool(facts))
