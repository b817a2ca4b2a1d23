"""Closing a window on a run: by preference, by question, or by a program."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication, QLabel, QMainWindow, QMessageBox, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run.closing import CloseGuard


class StandIn(QObject):
    """A controller whose run ends when told."""

    stateChanged = Signal()  # noqa: N815  # as Qt names signals

    def __init__(self, outlives_napari: bool) -> None:
        super().__init__()
        self.outlives_napari = outlives_napari
        self.watching = False
        self.is_busy = True
        self.done: list[str] = []

    @property
    def is_training(self) -> bool:
        return self.is_busy and not self.watching

    def request_stop(self, now: bool) -> None:
        self.done.append("stop now" if now else "stop")

    def leave(self) -> None:
        self.done.append("leave")
        if self.outlives_napari:
            QTimer.singleShot(0, self.end)

    def end(self) -> None:
        self.is_busy = False
        self.stateChanged.emit()


@pytest.fixture
def window(qtbot) -> QMainWindow:
    """As napari's: a central widget that holds the viewer."""
    window = QMainWindow()
    central = QWidget()
    layout = QVBoxLayout(central)
    layout.addWidget(QLabel("viewer"))
    window.setCentralWidget(central)
    qtbot.addWidget(window)
    window.show()
    return window


@pytest.fixture
def wish(monkeypatch: pytest.MonkeyPatch):
    def wish(on_close: str) -> None:
        monkeypatch.setattr(closing, "preferences", lambda: Preferences(on_close=on_close))  # type: ignore[arg-type]

    return wish


def answer_with(qtbot, text: str) -> list[list[str]]:
    """Press the button called ``text`` as soon as the question is there; gives the texts of its buttons."""
    seen: list[list[str]] = []

    def press() -> None:
        boxes = [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, QMessageBox)]
        if not boxes:
            QTimer.singleShot(10, press)
            return
        buttons = {button.text(): button for button in boxes[0].findChildren(QPushButton)}
        seen.append(sorted(buttons))
        buttons[text].click()

    QTimer.singleShot(0, press)
    return seen


@pytest.mark.parametrize(
    ("text", "done"),
    [("Keep training", ["leave"]), ("Stop", ["stop now", "leave"])],
)
def test_a_process_of_its_own_goes_on_or_ends_by_itself(qtbot, window, wish, text: str, done: list[str]) -> None:
    wish("ask")
    controller = StandIn(outlives_napari=True)
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    seen = answer_with(qtbot, text)
    assert window.close()
    assert seen == [["Do not close", "Keep training", "Stop"]]
    assert controller.done == done
    guard.release()


def test_one_may_think_better_of_it(qtbot, window, wish) -> None:
    wish("ask")
    controller = StandIn(outlives_napari=True)
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    answer_with(qtbot, "Do not close")
    assert not window.close()
    assert controller.done == []
    guard.release()
    assert window.close()


def test_inside_napari_the_window_waits_for_the_model(qtbot, window, wish) -> None:
    wish("keep training")  # which cannot be: so it is asked
    controller = StandIn(outlives_napari=False)
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    seen = answer_with(qtbot, "Stop, then close")
    assert not window.close()
    assert seen == [["Do not close", "Stop, then close"]]
    assert controller.done == ["stop now"]
    controller.end()
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=2000)
    guard.release()


@pytest.mark.parametrize(("on_close", "done"), [("keep training", ["leave"]), ("stop", ["stop now", "leave"])])
def test_the_preferences_answer(qtbot, window, wish, on_close: str, done: list[str]) -> None:
    wish(on_close)
    controller = StandIn(outlives_napari=True)
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    assert window.close()
    assert controller.done == done
    guard.release()


def test_a_program_that_closes_the_viewer_is_not_asked(qtbot, window, wish) -> None:
    wish("ask")
    controller = StandIn(outlives_napari=True)
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    window.centralWidget().findChild(QLabel).close()  # as viewer.close() does first
    assert window.close()
    assert controller.done == ["leave"]
    guard.release()


def test_what_is_only_watched_is_let_go(qtbot, window, wish) -> None:
    wish("ask")
    controller = StandIn(outlives_napari=True)
    controller.watching = True
    guard = CloseGuard(window, controller)  # type: ignore[arg-type]
    assert window.close()
    assert controller.done == ["leave"]
    guard.release()


@pytest.mark.parametrize(("text", "done"), [("Keep training", []), ("Stop", ["stop now"])])
@pytest.mark.parametrize("outlives_napari", [True, False])
def test_a_closed_dock_asks_too(qtbot, window, wish, outlives_napari: bool, text: str, done: list[str]) -> None:
    wish("ask")
    controller = StandIn(outlives_napari)
    seen = answer_with(qtbot, text)
    CloseGuard(window, controller).release(QWidget())  # type: ignore[arg-type]
    qtbot.waitUntil(lambda: bool(seen) and controller.done == done, timeout=5000)
    assert seen == [["Keep training", "Stop"]]
    assert controller.done == done
