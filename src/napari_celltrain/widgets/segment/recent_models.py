"""Models that were trained or used lately: what the list of recent ones is made of; for a worker thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from napari_celltrain.errors import CellTrainError
from napari_celltrain.runs.model_file import CARD, ModelCard, read_card
from napari_celltrain.runs.wording import scores
from napari_celltrain.widgets.path_edit import recent_paths, remember_path
from napari_celltrain.widgets.preferences import last_run, preferences

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
