"""What the tests of the window share."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QSettings


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the developer's own napari remembers stays untouched."""
    folder = str(tmp_path_factory.mktemp("settings"))
    for file_format in (QSettings.Format.IniFormat, QSettings.Format.NativeFormat):
        QSettings.setPath(file_format, QSettings.Scope.UserScope, folder)
