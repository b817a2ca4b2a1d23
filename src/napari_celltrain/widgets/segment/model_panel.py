"""Which model to use, a recent one or one that is browsed for, and what is known about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_celltrain.nets.models import MODELS
from napari_celltrain.runs.model import ModelCard, read_card
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.values.decoding import METHODS
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.text import count, scores, sizes
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.path_edit import PathEdit, recent_paths, remember_path
from napari_celltrain.widgets.preferences import last_run, preferences
from napari_celltrain.widgets.segment.parts import Facts, Message
from napari_celltrain.widgets.theme import fill, tooltip

MAX_MODELS = 20
HISTORY = "segment.model"
_MAX_LOOKED_AT = 200
"""Runs of one results folder: on a network disk each costs a moment."""
_INVITATION = "Choose a model: a recent one, or the folder of a run."


class ModelPanel(QWidget):
    """Edits the ``path`` of a model. ``card`` is its model card, read in the background; None until it can be used."""

    cardChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.card: ModelCard | None = None
        self.name = ""
        """Part of the names of its results."""
        self.recent = ComboBox()
        self.recent.setAccessibleName("Recent models")
        self.recent.setToolTip(tooltip("Models of the recent results folders, the newest first"))
        caption, kinds = "Choose a run or a model", "Models (*.yaml *.safetensors *.zip);;All files (*)"
        self.path = PathEdit("either", caption=caption, file_filter=kinds, history=HISTORY, placeholder="Run or model")
        self.path.set_accessible_name("Run folder or model")
        self.path.setToolTip("A run folder, its model folder, a model.yaml, or an exported model (zip).")
        self.message = Message(_INVITATION)
        self.facts = Facts()
        self._reader = Background("Reading the model", self)
        self._finder = Background("Looking for models", self)
        fill(QVBoxLayout(self), self.recent, self.path, self.message, self.facts, spacing=2)
        self.recent.activated.connect(self._take_recent)
        self.path.valueChanged.connect(self.read)
        self._reader.answered.connect(self._take_card)
        self._reader.failed.connect(partial(self._set_card, None, error=True))
        self._finder.answered.connect(self._show_recent)
        self._show_recent([])

    def look(self) -> None:
        """Find the recent models again."""
        latest = last_run()
        results = [preferences().results_folder, *recent_paths("data.results"), *([latest.parent] if latest else [])]
        used = recent_paths(HISTORY)
        self._finder.start(lambda job: find_models(dict.fromkeys(results), used))

    def read(self) -> None:
        """Read the model again: it may have been trained on since."""
        path = self.path.value()
        self._mark_recent()
        self._set_card(None, "Reading …" if path else _INVITATION)
        if path is None:
            self._reader.cancel()
        else:
            self._reader.start(lambda job: read_card(path))

    def _take_card(self, card: ModelCard) -> None:
        path = self.path.value()
        assert path is not None
        remember_path(HISTORY, path)
        self.name = name_of(card, path)
        self._set_card(card, "")

    def _set_card(self, card: ModelCard | None, message: str, *, error: bool = False) -> None:
        self.card = card
        self.path.set_problem(message if error else None)
        self.message.say(message, error=error)
        self.facts.set_rows(facts_of(card) if card is not None else [])
        self.cardChanged.emit()

    def _show_recent(self, models: list[RecentModel]) -> None:
        self.recent.clear()
        self.recent.addItem("Recent models …" if models else "No recent models")
        for index, (when, path, name, score) in enumerate(models, start=1):
            self.recent.addItem(f"{name}   {score}", str(path))
            help_text = tooltip(f"{path}\n{when:%Y-%m-%d %H:%M}, {score}")
            self.recent.setItemData(index, help_text, Qt.ItemDataRole.ToolTipRole)
        self.recent.setEnabled(bool(models))
        self._mark_recent()

    def _mark_recent(self) -> None:
        self.recent.setCurrentIndex(max(0, self.recent.findData(str(self.path.value()))))

    def _take_recent(self, index: int) -> None:
        if index > 0:
            self.path.setValue(Path(self.recent.itemData(index)))


RecentModel = tuple[datetime, Path, str, str]
"""When it was trained, the run folder or the path that the user has chosen, its name, and its scores."""


def find_models(results: Iterable[Path], used: Iterable[Path]) -> list[RecentModel]:
    """The newest first; for a worker thread. Those that cannot be read are left out: nobody has asked for them."""
    paths: list[Path] = []
    for folder in results:
        with contextlib.suppress(OSError):
            runs = [run for run in folder.iterdir() if (run / "model" / CARD).is_file()]
            paths += sorted(runs, key=_changed, reverse=True)[:_MAX_LOOKED_AT]
    found: dict[Path, RecentModel] = {}
    for path in (*paths, *used):
        with contextlib.suppress(CellTrainError, OSError):
            card = read_card(path)
            score = scores(card.training.validation_dice, card.training.validation_f1)
            found.setdefault(path.resolve(), (_changed(path), path, name_of(card, path), score))
    return sorted(found.values(), reverse=True)[:MAX_MODELS]


def _changed(path: Path) -> datetime:
    card = path / "model" / CARD
    return datetime.fromtimestamp((card if card.exists() else path).stat().st_mtime).astimezone()


def name_of(card: ModelCard, path: Path) -> str:
    """The run that the model is of; a renamed folder or file goes by its new name."""
    if path.name in ("model", CARD):
        return card.training.run
    return path.name.removesuffix(".zip") or card.training.run


def facts_of(card: ModelCard) -> list[tuple[str, str, str]]:
    """Headings and texts, for people."""
    training, decoding = card.training, card.decoding
    score = scores(training.validation_dice, training.validation_f1)
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
        "Scores": f"{score} on {count(training.num_validation, 'validation volume')}",
        "Voxel size": f"{sizes(card.voxel_size)} µm (z, y, x)" if card.voxel_size else "unknown",
        "Channel": "" if card.channel is None else f"{card.channel} (count from 0)",
        "Objects": objects if card.label_kind == "objects" else "",
    }
    return [(heading, text, "") for heading, text in facts.items() if text]
