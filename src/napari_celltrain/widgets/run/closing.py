"""What happens to a run when the widget or napari is closed. Nothing is lost either way."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import QEvent, QEventLoop, QObject, Qt, QTimer
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QMainWindow, QMessageBox, QPushButton, QWidget

from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.run.controller import RunController

Answer = Literal["keep training", "stop", "cancel"]

_LEAVE_MS = 3000  # to leave a process takes a tenth of a second; a worker that hangs must not keep napari open


class CloseGuard(QObject):
    """Watches a window of napari and asks before it closes on a run."""

    def __init__(self, window: QMainWindow, controller: RunController, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._window = window
        self._controller = controller
        self._closes_at_end = False
        window.installEventFilter(self)
        controller.stateChanged.connect(self._renew)

    def release(self) -> None:
        self._window.removeEventFilter(self)
        self._controller.stateChanged.disconnect(self._renew)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        controller = self._controller
        if watched is not self._window or not isinstance(event, QCloseEvent) or not controller.is_busy:
            return False
        answer: Answer = "keep training"
        if _is_torn_down(self._window):  # by a script: too late to ask, and nobody there to answer
            answer = "stop" if preferences().on_close == "stop" else answer
        elif not controller.watching:
            answer = ask(self._window, controller, may_cancel=True)
            if answer == "cancel" or (answer == "stop" and not controller.outlives_napari):
                self._closes_at_end = answer == "stop"
                if self._closes_at_end:
                    controller.request_stop(now=True)
                event.ignore()
                return True
        if answer == "stop":  # then the process that trains ends by itself
            controller.request_stop(now=True)
        controller.leave()
        if controller.outlives_napari and controller.is_busy:  # else napari waits for its workers
            loop = QEventLoop()
            controller.stateChanged.connect(loop.quit)
            QTimer.singleShot(_LEAVE_MS, loop.quit)
            loop.exec()
        return False

    def _renew(self) -> None:
        if self._closes_at_end and not self._controller.is_busy:
            self._closes_at_end = False
            QTimer.singleShot(0, self._window.close)


def ask(window: QWidget, controller: RunController, may_cancel: bool) -> Answer:
    """The user's wish: by the preferences, where these decide it; else by a question."""
    wish = preferences().on_close
    keeps = controller.outlives_napari or not may_cancel
    if wish == "stop" or (wish == "keep training" and keeps):
        return wish
    box = QMessageBox(window)
    box.setIcon(QMessageBox.Icon.Question)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle("CellTrain is training")
    box.setText("A run is still training." if keeps else "A run is still training inside napari, and ends with it.")
    box.setInformativeText(
        "It can go on in the background; open the widget again to see it. Or it stops now, with a validation, and "
        "keeps its best model."
        if keeps
        else "It can stop now, with a validation; napari closes when the best model is saved."
    )
    role = QMessageBox.ButtonRole
    answers: dict[QPushButton | None, Answer] = {}
    if keeps:
        answers[box.addButton("Keep training", role.AcceptRole)] = "keep training"
    answers[box.addButton("Stop" if keeps else "Stop, then close", role.DestructiveRole)] = "stop"
    if may_cancel:
        answers[box.addButton("Do not close", role.RejectRole)] = "cancel"
    first, *_, last = answers
    box.setDefaultButton(first)
    box.setEscapeButton(last if may_cancel else first)
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    return next((answer for button, answer in answers.items() if button is clicked), "cancel")


def ask_after_undocking(window: QWidget, controller: RunController) -> None:
    """The widget is gone already; the run goes on until it is answered."""
    if controller.is_training and ask(window, controller, may_cancel=False) == "stop":
        controller.request_stop(now=True)


class DeferredClose(QObject):
    """What is left to do when the widget has been taken out of its dock, once napari is done with that.

    It is a child of the window: if that is deleted before, nothing is left to do.
    """

    def __init__(self, widget: QWidget, window: QMainWindow, controller: RunController) -> None:
        super().__init__(window)
        self._widget: QWidget | None = widget
        self._window = window
        self._controller = controller
        QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        widget, self._widget = self._widget, None
        self.deleteLater()
        if widget is not None and widget.parent() is None:  # else docked again elsewhere
            widget.deleteLater()
            ask_after_undocking(self._window, self._controller)


def _is_torn_down(window: QMainWindow) -> bool:
    """Whether what napari shows is closed already, as when a program closes the viewer."""
    central = window.centralWidget()
    children = central.findChildren(QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly) if central else []
    return bool(children) and all(child.isHidden() for child in children)
