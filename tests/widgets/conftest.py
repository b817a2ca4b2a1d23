"""What the tests of the window share."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QSettings

from napari_celltrain.widgets import controller, run_sources


@pytest.fixture(autouse=True)
def impatient_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """News of a run come at once: no test has to wait for the next second."""
    monkeypatch.setattr(run_sources, "FIRST_PAUSE", 0.05)
    for module in (run_sources, controller):
        monkeypatch.setattr(module, "PAUSES", (0.05, 0.1))


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the developer's own napari remembers stays untouched."""
    folder = str(tmp_path_factory.mktemp("settings"))
    for file_format in (QSettings.Format.IniFormat, QSettings.Format.NativeFormat):
        QSettings.setPath(file_format, QSettings.Scope.UserScope, folder)
