"""Load settings… and Save settings…: the YAML of the command line."""

from __future__ import annotations

from pathlib import Path

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_celltrain.config import RunConfig
from napari_celltrain.errors import CellTrainError
from napari_celltrain.runs import atomic
from napari_celltrain.runs.config_file import dump_config, load_config

_KINDS = "Settings (*.yaml *.yml)"


def ask_and_load(parent: QWidget, folder: Path) -> RunConfig | None:
    """The settings of a file that the user chooses; what is wrong with it is shown."""
    name, _ = QFileDialog.getOpenFileName(parent, "Load settings", str(folder), _KINDS)
    return load(Path(name)) if name else None


def ask_and_save(parent: QWidget, folder: Path, config: RunConfig) -> None:
    name, _ = QFileDialog.getSaveFileName(parent, "Save settings", str(folder / "settings.yaml"), _KINDS)
    if name:
        save(Path(name), config)


def load(path: Path) -> RunConfig | None:
    try:
        return load_config(path)
    except CellTrainError as error:
        show_error(str(error))
        return None


def save(path: Path, config: RunConfig) -> None:
    path = path if path.suffix else path.with_suffix(".yaml")
    try:
        atomic.write_text(path, dump_config(config, commented=True))
    except CellTrainError as error:
        show_error(str(error))
    except OSError as error:
        show_error(str(atomic.refusal(path, error)))
