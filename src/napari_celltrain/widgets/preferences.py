"""Settings outside the form: napari's preferences, the last run, and files of settings to load and save."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from napari.utils.notifications import show_error
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_celltrain.runs.config_file import dump_config, load_config
from napari_celltrain.values import files
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError

PLUGIN = "napari-celltrain"
OWN_PROCESS = "a process of its own"
_LAST_RUN = "last_run"


@dataclass(frozen=True, slots=True)
class Preferences:
    """As in ``configurations`` of napari.yaml; the defaults hold where napari is too old to have them."""

    device: str = "auto"
    results: str = ""
    runs_in: str = OWN_PROCESS
    on_close: Literal["ask", "keep training", "stop"] = "ask"

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
    values: list[Any] = [str(getattr(training, field.name)) for field in fields(Preferences)]
    return Preferences(*values)


def remember_run(folder: Path) -> None:
    """A widget that is opened later, even in another session of napari, looks whether this run is still going on."""
    memory().setValue(_LAST_RUN, str(folder.absolute()))


def last_run() -> Path | None:
    value = memory().value(_LAST_RUN)
    return Path(value) if isinstance(value, str) and value else None


def memory() -> QSettings:
    """What is remembered between sessions: a file of its own on every system, so that tests can put it elsewhere."""
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, PLUGIN, PLUGIN)


# --- settings file ---------------------------------------------------------------------------------------

_KINDS = "Settings (*.yaml *.yml)"


def ask_and_load(parent: QWidget, folder: Path) -> RunConfig | None:
    """The settings of a file that the user chooses; what is wrong with it is shown."""
    name, _ = QFileDialog.getOpenFileName(parent, "Load settings", str(folder), _KINDS)
    if name:
        try:
            return load_config(Path(name))
        except CellTrainError as error:
            show_error(str(error))
    return None


def ask_and_save(parent: QWidget, folder: Path, config: RunConfig) -> None:
    name, _ = QFileDialog.getSaveFileName(parent, "Save settings", str(folder / "settings.yaml"), _KINDS)
    if not name:
        return
    path = Path(name) if Path(name).suffix else Path(name).with_suffix(".yaml")
    try:
        with files.writing(path):
            files.write_text(path, dump_config(config, commented=True))
    except CellTrainError as error:
        show_error(str(error))
