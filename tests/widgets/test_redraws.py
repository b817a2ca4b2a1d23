"""What renews by itself has the window drawn as seldom as that takes."""

from __future__ import annotations

import time

import pytest
from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import QMainWindow, QVBoxLayout, QWidget

from napari_celltrain.values.events import EpochDone, StepDone
from napari_celltrain.widgets import responsive
from napari_celltrain.widgets.responsive import drawn_once, pause
from napari_celltrain.widgets.run.progress import RunProgress

SECONDS = 0.03
SHORTEST, LONGEST = 0.25, 5.0


class Counter(QObject):
    """How often a window is asked to draw itself, and to lay itself out."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.redraws = 0
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  # Qt's name
        self.redraws += event is not None and event.type() == QEvent.Type.UpdateRequest
        return False


class Slow(QWidget):
    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802  # Qt's name
        time.sleep(SECONDS)


def window_with(qtbot, content: QWidget) -> QMainWindow:
    window = QMainWindow()
    qtbot.addWidget(window)
    window.setCentralWidget(content)
    with qtbot.waitExposed(window):
        window.show()
    return window


def settle(qtbot, counter: Counter) -> int:
    """The redraws so far, once there have been none for a while."""
    before = -1
    while counter.redraws != before:
        before = counter.redraws
        qtbot.wait(100)
    return before


def test_news_of_all_kinds_draw_the_window_once(qtbot) -> None:
    content = QWidget()
    layout = QVBoxLayout(content)
    progress = RunProgress()
    layout.addWidget(progress)
    window = window_with(qtbot, content)
    counter = Counter(window)
    before = settle(qtbot, counter)
    news = [
        StepDone(epoch=1, step=1, step_in_epoch=1, loss=0.5, learning_rate=0.1, seconds=1),
        EpochDone(epoch=1, step=4, train_loss=0.5, learning_rate=0.1, seconds=4, remaining_seconds=32),
    ]
    with drawn_once(content):
        progress.addEvents(news)
    assert settle(qtbot, counter) == before + 1
    assert "loss 0.5000" in progress.numbers.text()


def test_widgets_are_drawn_again_after_an_error(qtbot) -> None:
    content = QWidget()
    with pytest.raises(ValueError, match="mine"), drawn_once(content):
        raise ValueError("mine")
    assert content.updatesEnabled()


def test_a_window_that_is_slow_to_draw_is_drawn_seldom(qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responsive, "_redraw_seconds", 0.0)
    assert pause(SHORTEST, LONGEST) == SHORTEST
    content = Slow()
    window = window_with(qtbot, content)
    assert window.isVisible()
    for _ in range(10):
        with drawn_once(content):
            content.update()
    assert responsive.redraw_seconds() > 0.5 * SECONDS
    assert pause(SHORTEST, LONGEST) == min(responsive.redraw_seconds() / 0.005, LONGEST)
    assert pause(SHORTEST, LONGEST) > SHORTEST
