"""What the tests of the window share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from qtpy.QtCore import QSettings

from napari_celltrain.widgets import costs
from napari_celltrain.widgets.run import curves, shown, sources


@pytest.fixture(autouse=True, scope="package")
def little_garbage() -> None:
    """napari searches for garbage after every viewer; what earlier tests have imported need not be looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def counts_costs() -> Iterator[None]:
    """For the tests that want the process that looks for devices and counts what networks cost."""
    yield
    costs.shared_finder().stop()


@pytest.fixture(autouse=True)
def no_costs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That process computes for half a minute, and every window starts one."""
    if "counts_costs" not in request.fixturenames:
        monkeypatch.setattr(costs.CostFinder, "look", lambda *_: None)


@pytest.fixture(autouse=True)
def impatient_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of a run come at once: no test has to wait for the next second."""
    for module in (sources, curves):
        monkeypatch.setattr(module, "PAUSES", (0.05, 0.1))
    monkeypatch.setattr(shown, "LONGEST_REST", 0.1)


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the developer's own napari remembers stays untouched."""
    folder = str(tmp_path_factory.mktemp("settings"))
    for file_format in (QSettings.Format.IniFormat, QSettings.Format.NativeFormat):
        QSettings.setPath(file_format, QSettings.Scope.UserScope, folder)
