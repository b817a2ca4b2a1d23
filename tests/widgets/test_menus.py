"""Where napari itself shows the plugin: its menus as a person opens them, and its preferences."""

from __future__ import annotations

from typing import Any

import pytest
from napari._qt.dialogs.preferences_dialog import PreferencesDialog
from napari._qt.widgets.qt_viewer_dock_widget import QtViewerDockWidget
from npe2 import PluginManifest
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QApplication, QComboBox, QLabel, QLineEdit, QWidget

from napari_celltrain.widgets.preferences import Preferences, preferences
from napari_celltrain.widgets.segment.widget import SegmentWidget
from napari_celltrain.widgets.train.widget import TrainWidget

NAME = "napari-celltrain"
TRAIN = "Train a segmentation model (CellTrain)"
SEGMENT = "Segment with a trained model (CellTrain)"


@pytest.fixture
def viewer(npe2pm, plugin_settings, make_napari_viewer) -> Any:
    """With this plugin alone."""
    npe2pm.register(PluginManifest.from_distribution(NAME))
    return make_napari_viewer(strict_qt=False)


def find(viewer: Any, *path: str) -> QAction:
    """The entry at the end of ``path``, each menu filled as it is when it is opened."""
    actions = viewer.window._qt_window.menuBar().actions()
    for depth, title in enumerate(path):
        shown = {action.text().replace("&", ""): action for action in actions if not action.isSeparator()}
        assert title in shown, f"{' ▸ '.join(path[:depth])} has {sorted(shown)}"
        found = shown[title]
        menu = found.menu()
        if menu is not None:
            menu.aboutToShow.emit()
            actions = menu.actions()
    assert isinstance(found, QAction)
    return found


def docked(viewer: Any, kind: type[QWidget]) -> list[QWidget]:
    docks = viewer.window._qt_window.findChildren(QtViewerDockWidget)
    return [dock.inner_widget() for dock in docks if isinstance(dock.inner_widget(), kind)]


@pytest.mark.parametrize("menu", [("Plugins", "CellTrain"), ("Layers", "Segment")])
@pytest.mark.parametrize(("title", "kind"), [(TRAIN, TrainWidget), (SEGMENT, SegmentWidget)])
def test_a_menu_opens_the_widget(viewer, menu: tuple[str, ...], title: str, kind: type[QWidget]) -> None:
    entry = find(viewer, *menu, title)
    assert docked(viewer, kind) == []
    entry.trigger()
    QApplication.processEvents()
    [widget] = docked(viewer, kind)
    assert widget.viewer.window is viewer.window
    viewer.window.remove_dock_widget(widget)


def test_a_sample_is_opened(viewer) -> None:
    find(viewer, "File", "Open Sample", "CellTrain", "Generated nuclei as folders of images and labels")
    find(viewer, "File", "Open Sample", "CellTrain", "Generated nuclei with their labels").trigger()
    assert [layer._type_string for layer in viewer.layers] == ["image", "labels"]


def test_every_preference_is_in_the_dialog_and_counts(viewer) -> None:
    find(viewer, "File", "Preferences").trigger()
    [dialog] = viewer.window._qt_window.findChildren(PreferencesDialog)
    pages = [dialog._list.item(row).text() for row in range(dialog._list.count())]
    page = dialog._stack.widget(pages.index("CellTrain"))
    titles = {label.text() for label in page.findChildren(QLabel)}
    assert {"Device", "Results folder", "Train in", "When closed while training"} <= titles
    for box in page.findChildren(QComboBox):
        if box.findText("napari") >= 0 or box.findText("keep training") >= 0:
            box.setCurrentText("napari" if box.findText("napari") >= 0 else "keep training")
    for line, text in zip(page.findChildren(QLineEdit), ("cpu", "/somewhere"), strict=True):
        line.setText(text)
    assert preferences() == Preferences("cpu", "/somewhere", "napari", "keep training")
    dialog.reject()
    assert preferences() == Preferences()
