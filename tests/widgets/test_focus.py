"""Whoever goes through the widget with Tab sees where the keyboard is: in both of napari's themes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication, QComboBox, QScrollArea, QWidget

from napari_celltrain.widgets.forms.rows import Fold
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.train.widget import TrainWidget

AROUND = 4
"""Pixels beside a control in which its frame is."""
LEAST = 30
"""Pixels that have to change: more than a text cursor, which says little in a form of forty fields."""
CLEARLY = 40
"""Levels of 255 by which a pixel has to change to be seen to."""


@pytest.fixture
def steady_cursor() -> Iterator[None]:
    before = QApplication.cursorFlashTime()
    QApplication.setCursorFlashTime(0)
    yield
    QApplication.setCursorFlashTime(before)


@pytest.fixture
def widget(qtbot, make_napari_viewer, steady_cursor) -> Iterator[TrainWidget]:
    """With everything unfolded that can be, and with what is there at the end of a run."""
    viewer = make_napari_viewer(show=True, strict_qt=False)
    window = viewer.window._qt_window
    window.resize(1000, 1100)
    controller = RunController()
    made = TrainWidget(viewer, controller)
    viewer.window.add_dock_widget(made, name="CellTrain")
    for fold in made.findChildren(Fold):
        fold.set_open(True)
    panel = made.panel
    for part in (panel.scroll_area, panel.end_row, panel.segment_row, panel.predictions, panel.log):
        part.show()
    made.splitter.setSizes([600, 400])
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    yield made
    controller.dismiss()
    viewer.window.remove_dock_widget(made)


def controls(widget: TrainWidget) -> list[QWidget]:
    """What Tab comes by, in order."""
    found: list[QWidget] = []
    at = widget.nextInFocusChain()
    while at is not None and at is not widget:
        by_tab = bool(at.focusPolicy() & Qt.FocusPolicy.TabFocus)
        if by_tab and at.isVisibleTo(widget) and at.isEnabled() and at.focusProxy() is None and widget.isAncestorOf(at):
            found.append(at)
        at = at.nextInFocusChain()
    return found


def picture(widget: TrainWidget, control: QWidget) -> Any:
    """Of the control and a little around it, (Y, X, color)."""
    QApplication.processEvents()
    place = QRect(control.mapTo(widget, QPoint(0, 0)), control.size()).adjusted(-AROUND, -AROUND, AROUND, AROUND)
    image = widget.grab(place & widget.rect()).toImage().convertToFormat(QImage.Format.Format_RGB32)
    pixels = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8)
    return pixels.reshape(image.height(), -1, 4)[:, : image.width(), :3].astype(int)


def changed_pixels(qtbot: Any, widget: TrainWidget, control: QWidget) -> int:
    control.setFocus(Qt.FocusReason.TabFocusReason)
    for area in widget.findChildren(QScrollArea):
        if area.isAncestorOf(control):
            area.ensureWidgetVisible(control, AROUND, AROUND)
    with_focus = picture(widget, control)
    assert control.hasFocus()
    control.clearFocus()
    without = picture(widget, control)
    return int((np.abs(with_focus - without).max(axis=-1) > CLEARLY).sum())


def name_of(control: QWidget) -> str:
    return f"{type(control).__name__} {control.accessibleName() or control.toolTip()[:50] or control.objectName()}"


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_focus_is_seen_on_every_control(qtbot, widget: TrainWidget, theme: str) -> None:
    widget.viewer.theme = theme
    seen: dict[str, int] = {}
    for page in range(3):
        widget.tabs.setCurrentIndex(page)
        for box in widget.tabs.currentWidget().findChildren(QComboBox):
            if box.findText("own", Qt.MatchFlag.MatchContains) >= 0:  # the list of augmentations
                box.setCurrentIndex(box.findText("own", Qt.MatchFlag.MatchContains))
        QApplication.processEvents()
        for control in controls(widget):
            seen[f"{page} {name_of(control)}"] = changed_pixels(qtbot, widget, control)
    assert len(seen) > 60
    assert {name: number for name, number in seen.items() if number < LEAST} == {}
