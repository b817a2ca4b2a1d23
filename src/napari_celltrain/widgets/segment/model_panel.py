"""Which model to use, a recent one or one that is browsed for, and what is known about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QWidget

from napari_celltrain.nets.models import MODELS
from napari_celltrain.runs.model import ModelCard, read_card
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.values.decoding import METHODS
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.text import count, scores, sizes
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import PathEdit, recent_paths, remember_path
from napari_celltrain.widgets.forms.rows import column
from napari_celltrain.widgets.preferences import last_run, preferences
from napari_celltrain.widgets.segment.parts import Facts, Message
from napari_celltrain.widgets.theme import tooltip

MAX_MODELS = 20
HISTORY = "segment.model"
_MAX_LOOKED_AT = 200
"""Runs of one results folder: on a network disk each costs a moment."""
_INVITATION = "Choose a model: a recent one, or the folder of a run."


class ModelPanel(QWidget):
    """Edits the path of a model. ``card`` is its model card, read in the background; None until it can be used."""

    cardChanged = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.card: ModelCard | None = None
        self.recent = ComboBox()
        self.recent.setAccessibleName("Recent models")
        self.recent.setToolTip(tooltip("Models of the recent results folders, the newest first"))
        self.path = PathEdit(
            "either",
            caption="Choose a run or a model",
            file_filter="Models (*.yaml *.safetensors *.zip);;All files (*)",
            history=HISTORY,
            placeholder="Run or model",
        )
        self.path.set_accessible_name("Run folder or model")
        self.path.setToolTip("A run folder, its model folder, a model.yaml, or an exported model (zip).")
        self.message = Message(_INVITATION)
        self.facts = Facts()
        self._reader = Background("Reading the model", self)
        self._finder = Background("Looking for models", self)
        column(self, self.recent, self.path, self.message, self.facts)
        self.recent.activated.connect(self._take_recent)
        self.path.valueChanged.connect(self.read)
        self._reader.answered.connect(self._take_card)
        self._reader.failed.connect(self._show_problem)
        self._finder.answered.connect(self._show_recent)
        self._show_recent([])

    def value(self) -> Path | None:
        return self.path.value()

    def setValue(self, path: Path | None) -> None:
        self.path.setValue(path)

    @property
    def name(self) -> str:
        """Part of the names of its results."""
        path = self.value()
        return "" if self.card is None or path is None else name_of(self.card, path)

    @property
    def is_busy(self) -> bool:
        return self._reader.is_busy

    def look(self) -> None:
        """Find the recent models again."""
        latest = last_run()
        results = [preferences().results_folder, *recent_paths("data.results"), *([latest.parent] if latest else [])]
        used = recent_paths(HISTORY)
        self._finder.start(lambda job: find_models(dict.fromkeys(results), used))

    def read(self) -> None:
        """Read the model again: it may have been trained on since."""
        path = self.value()
        self._select(path)
        self.path.set_problem(None)
        self._set_card(None, "Reading …" if path else _INVITATION)
        if path is None:
            self._reader.cancel()
        else:
            self._reader.start(lambda job: read_card(path))

    def _take_card(self, card: ModelCard) -> None:
        path = self.value()
        assert path is not None
        remember_path(HISTORY, path)
        self._set_card(card, "")

    def _show_problem(self, message: str) -> None:
        self.path.set_problem(message)
        self._set_card(None, message, error=True)

    def _set_card(self, card: ModelCard | None, message: str, *, error: bool = False) -> None:
        self.card = card
        self.message.say(message, error=error)
        self.facts.set_rows(facts_of(card) if card is not None else [])
        self.cardChanged.emit()

    def _show_recent(self, models: list[RecentModel]) -> None:
        with QSignalBlocker(self.recent):
            self.recent.clear()
            self.recent.addItem("Recent models …" if models else "No recent models")
            for index, model in enumerate(models, start=1):
                self.recent.addItem(f"{model.name}   {model.score}", model.path)
                help_text = tooltip(f"{model.path}\n{model.when:%Y-%m-%d %H:%M}, {model.score}")
                self.recent.setItemData(index, help_text, Qt.ItemDataRole.ToolTipRole)
        self.recent.setEnabled(bool(models))
        self._select(self.value())

    def _select(self, path: Path | None) -> None:
        shown = [self.recent.itemData(index) for index in range(self.recent.count())]
        with QSignalBlocker(self.recent):
            self.recent.setCurrentIndex(shown.index(path) if path in shown else 0)

    def _take_recent(self, index: int) -> None:
        path = self.recent.itemData(index)
        if path is not None and path != self.value():
            self.setValue(path)


@dataclass(frozen=True, slots=True)
class RecentModel:
    path: Path
    """The run folder, or the path that the user has chosen."""
    name: str
    when: datetime
    score: str
    """Such as ``Dice 0.9130, F1 0.8700``."""


def find_models(results: Iterable[Path], used: Iterable[Path]) -> list[RecentModel]:
    """The newest first; for a worker thread. Those that cannot be read are left out: nobody has asked for them."""
    found: dict[Path, RecentModel] = {}
    for path in (*_runs_in(results), *used):
        with contextlib.suppress(CellTrainError, OSError):
            card = read_card(path)
            found.setdefault(path.resolve(), RecentModel(path, name_of(card, path), _changed(path), _score_of(card)))
    return sorted(found.values(), key=lambda model: model.when, reverse=True)[:MAX_MODELS]


def name_of(card: ModelCard, path: Path) -> str:
    """The run that the model is of; a renamed folder or file goes by its new name."""
    if path.name in ("model", CARD):
        return card.training.run
    return path.name.removesuffix(".zip") or card.training.run


def _score_of(card: ModelCard) -> str:
    return scores(card.training.validation_dice, card.training.validation_f1)


def _runs_in(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        with contextlib.suppress(OSError):
            runs = [run for run in folder.iterdir() if (run / "model" / CARD).is_file()]
            yield from sorted(runs, key=_changed, reverse=True)[:_MAX_LOOKED_AT]


def _changed(path: Path) -> datetime:
    card = path / "model" / CARD
    return datetime.fromtimestamp((card if card.exists() else path).stat().st_mtime).astimezone()


def facts_of(card: ModelCard) -> list[tuple[str, str, str]]:
    """Headings and texts, for people."""
    training, decoding = card.training, card.decoding
    objects = f"{METHODS[decoding.method][0]}, threshold {card.threshold:.3g}"
    if decoding.method != "components":
        objects += f", seeds {decoding.seed_distance_um:.3g} µm apart"
    if decoding.min_size_um3 > 0:
        objects += f", from {decoding.min_size_um3:.3g} µm³"
    gives = {
        "objects": "numbered objects" + (", separated by learned borders" if card.target == "objects" else ""),
        "classes": f"{len(card.class_values)} classes, of the values {', '.join(map(str, card.class_values))}",
        "foreground": "foreground and background",
    }
    facts = {
        "Network": f"{MODELS[card.network.key].label}, {card.network.size}",
        "Gives": gives[card.label_kind],
        "Trained on": f"{count(training.num_training, 'volume')}, best at epoch {training.epoch}",
        "Scores": f"{_score_of(card)} on {count(training.num_validation, 'validation volume')}",
        "Voxel size": f"{sizes(card.voxel_size)} µm (z, y, x)" if card.voxel_size else "unknown",
        "Channel": "" if card.channel is None else f"{card.channel} (count from 0)",
        "Objects": objects if card.label_kind == "objects" else "",
    }
    return [(heading, text, "") for heading, text in facts.items() if text]
