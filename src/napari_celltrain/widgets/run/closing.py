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

    def __init__(self, window: QMainWindow, controller: RunController) -> None:
        super().__init__()
        self._window = window
        self._controller = controller
        self._closes_at_end = False
        self._widget: QWidget | None = None
        window.installEventFilter(self)
        controller.stateChanged.connect(self._renew)

    def release(self, widget: QWidget | None = None) -> None:
        """Watch no longer. A ``widget`` that has been taken out of its dock is deleted once napari is done with that,
        and the user asked about the run, which goes on until it is answered."""
        self._window.removeEventFilter(self)
        self._controller.stateChanged.disconnect(self._renew)
        self.setParent(self._window)  # if that is deleted before, nothing is left to do
        self._widget = widget
        QTimer.singleShot(0, self._finish)

    def _finish(self) -> None:
        widget, self._widget = self._widget, None
        self.deleteLater()
        if widget is None or widget.parent() is not None:  # docked again elsewhere
            return
        widget.deleteLater()
        if self._controller.is_training and ask(self._window, self._controller, may_cancel=False) == "stop":
            self._controller.request_stop(now=True)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        controller = self._controller
        if watched is not self._window or not isinstance(event, QCloseEvent) or not controller.is_busy:
            return False
        answer: Answer = "keep training"
        central, only = self._window.centralWidget(), Qt.FindChildOption.FindDirectChildrenOnly
        shown = central.findChildren(QWidget, options=only) if central is not None else []
        if shown and all(child.isHidden() for child in shown):  # by a script: too late to ask, and nobody to answer
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
    text = "A run is still training." if keeps else "A run is still training inside napari, and ends with it."
    box = QMessageBox(QMessageBox.Icon.Question, "CellTrain is training", text, parent=window)
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
