"""What the user has set in napari's preferences, and what the widget itself remembers between sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from qtpy.QtCore import QSettings

OnClose = Literal["ask", "keep training", "stop"]

PLUGIN = "napari-celltrain"
OWN_PROCESS = "a process of its own"
_LAST_RUN = "last_run"


@dataclass(frozen=True, slots=True)
class Preferences:
    """As in ``configurations`` of napari.yaml; the defaults hold where napari is too old to have them."""

    device: str = "auto"
    results: str = ""
    runs_in: str = OWN_PROCESS
    on_close: OnClose = "ask"

    @property
    def results_folder(self) -> Path:
        return Path(self.results).expanduser() if self.results else Path.home() / "celltrain-results"

    @property
    def own_process(self) -> bool:
        return self.runs_in == OWN_PROCESS


def preferences() -> Preferences:
    """The preferences as they are now."""
    try:
        from napari.settings import get_plugin_settings

        training = get_plugin_settings(PLUGIN).training
    except (ImportError, KeyError, AttributeError):  # before napari 0.9, or the plugin is not installed as one
        return Preferences()
    return Preferences(
        str(training.device),
        str(training.results),
        str(training.runs_in),
        cast(OnClose, str(training.on_close)),
    )


def remember_run(folder: Path) -> None:
    """A widget that is opened later, even in another session of napari, looks whether this run is still going on."""
    _memory().setValue(_LAST_RUN, str(folder.absolute()))


def last_run() -> Path | None:
    value = _memory().value(_LAST_RUN)
    return Path(value) if isinstance(value, str) and value else None


def _memory() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, PLUGIN, PLUGIN)
