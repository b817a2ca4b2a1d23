"""Every control of the window can be reached by Tab, from the top of each page to its bottom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QTabBar,
    QTableView,
    QWidget,
)

from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.train.widget import TrainWidget

CONTROLS = (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QTabBar,
    QTableView,
)


@pytest.fixture
def widget(qtbot) -> Iterator[TrainWidget]:
    controller = RunController()
    made = TrainWidget(ViewerModel(), controller)
    qtbot.addWidget(made)
    made.resize(420, 1400)
    made.show()
    QApplication.processEvents()
    yield made
    controller.dismiss()


def chain(widget: TrainWidget) -> list[QWidget]:
    """What Tab comes by, in order."""
    found, at = [], widget.nextInFocusChain()
    while at is not None and at is not widget:
        by_tab = bool(at.focusPolicy() & Qt.FocusPolicy.TabFocus)
        if by_tab and at.isVisible() and at.isEnabled() and at.focusProxy() is None and widget.isAncestorOf(at):
            found.append(at)
        at = at.nextInFocusChain()
    return found


def is_inside_another(control: QWidget) -> bool:
    """As the field of a number box, or the bar of an area that scrolls."""
    parent = control.parentWidget()
    inner = isinstance(parent, QAbstractSpinBox | QComboBox | QTabBar) or isinstance(control, QScrollBar)
    return inner or control.objectName().startswith("qt_")


@pytest.mark.parametrize("page", range(3))
def test_tab_reaches_every_control(widget: TrainWidget, page: int) -> None:
    widget.tabs.setCurrentIndex(page)
    QApplication.processEvents()
    shown = [c for c in widget.findChildren(QWidget) if isinstance(c, CONTROLS) and c.isVisible() and c.isEnabled()]
    reached = chain(widget)
    assert len(reached) > 3
    left_out = [c for c in shown if c not in reached and not is_inside_another(c)]
    assert [f"{type(c).__name__} {c.accessibleName() or c.toolTip()[:40]}" for c in left_out] == []


@pytest.mark.parametrize("page", range(3))
def test_tab_goes_down_the_page(widget: TrainWidget, page: int) -> None:
    widget.tabs.setCurrentIndex(page)
    QApplication.processEvents()
    content = widget.tabs.currentWidget()
    on_page = [control for control in chain(widget) if content.isAncestorOf(control)]
    tops = [control.mapTo(widget, QPoint(0, control.height() // 2)).y() for control in on_page]
    steps_back = [
        f"{type(one).__name__} {one.accessibleName()} ({low}) -> {other.accessibleName()} ({high})"
        for one, other, low, high in zip(on_page, on_page[1:], tops, tops[1:], strict=False)
        if high < low - 30
    ]
    assert steps_back == []
