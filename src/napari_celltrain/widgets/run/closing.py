"""What happens to a run when the widget or napari is closed. Nothing is lost either way."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import QEvent, QEventLoop, QObject, Qt, QTimer
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QMainWindow, QMessageBox, QWidget

from napari_celltrain.widgets.preferences import preferences
from napari_celltrain.widgets.run.controller import RunController

Answer = Literal["keep training", "stop", "cancel"]

_PARTING_MS = 3000  # to let go of a process takes a tenth of a second; a worker that hangs must not keep napari open


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
        if watched is not self._window or not isinstance(event, QCloseEvent) or not self._controller.is_busy:
            return False
        if _is_torn_down(self._window):  # by a script: too late to ask, and nobody there to answer
            self._part(stop=preferences().on_close == "stop")
            return False
        if self._controller.watching:
            self._part(stop=False)
            return False
        answer = ask(self._window, self._controller, may_cancel=True)
        if answer == "cancel" or (answer == "stop" and not self._controller.outlives_napari):
            self._closes_at_end = answer == "stop"
            if self._closes_at_end:
                self._controller.request_stop(now=True)
            event.ignore()
            return True
        self._part(stop=answer == "stop")
        return False

    def _part(self, stop: bool) -> None:
        """Leave the run to itself. The process that trains ends by itself where it was told to stop."""
        if stop:
            self._controller.request_stop(now=True)
        self._controller.leave()
        if not self._controller.outlives_napari:
            return  # napari waits for its workers
        loop = QEventLoop()
        self._controller.stateChanged.connect(loop.quit)
        QTimer.singleShot(_PARTING_MS, loop.quit)
        if self._controller.is_busy:
            loop.exec()

    def _renew(self) -> None:
        if self._closes_at_end and not self._controller.is_busy:
            self._closes_at_end = False
            QTimer.singleShot(0, self._window.close)


def ask(window: QWidget, controller: RunController, may_cancel: bool) -> Answer:
    """The user's wish: by the preferences, where these say; else by a question."""
    wish = preferences().on_close
    keeps = controller.outlives_napari or not may_cancel
    if wish == "stop" or (wish == "keep training" and keeps):
        return wish
    return _question(window, keeps, may_cancel)


def _question(window: QWidget, keeps: bool, may_cancel: bool) -> Answer:
    box = QMessageBox(window)
    box.setIcon(QMessageBox.Icon.Question)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle("CellTrain is training")
    box.setText("A run is still training." if keeps else "A run is still training inside napari, and ends with it.")
    keep = stop = None
    if keeps:
        box.setInformativeText(
            "It can go on in the background; open the widget again to see it. Or it stops now, with a validation, and "
            "keeps its best model."
        )
        keep = box.addButton("Keep training", QMessageBox.ButtonRole.AcceptRole)
    else:
        box.setInformativeText("It can stop now, with a validation; napari closes when the best model is saved.")
    stop = box.addButton("Stop" if keeps else "Stop, then close", QMessageBox.ButtonRole.DestructiveRole)
    cancel = box.addButton("Do not close", QMessageBox.ButtonRole.RejectRole) if may_cancel else None
    box.setDefaultButton(keep or stop)
    box.setEscapeButton(cancel or keep or stop)
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    if clicked is stop:
        return "stop"
    return "cancel" if cancel is not None and clicked is cancel else "keep training" if keeps else "cancel"


def ask_after_undocking(window: QWidget, controller: RunController) -> None:
    """The widget is gone already; the run goes on until it is answered."""
    if controller.is_training and ask(window, controller, may_cancel=False) == "stop":
        controller.request_stop(now=True)


class Farewell(QObject):
    """What is left to do when the widget has been taken out of its dock, once napari is done with that."""

    def __init__(self, widget: QWidget, window: QMainWindow, controller: RunController) -> None:
        super().__init__(window)
        self._widget: QWidget | None = widget
        self._window = window
        self._controller = controller

    def say(self) -> None:
        widget, self._widget = self._widget, None
        self.deleteLater()
        if widget is None or widget.parent() is not None:  # docked again elsewhere
            return
        widget.deleteLater()
        ask_after_undocking(self._window, self._controller)


def _is_torn_down(window: QMainWindow) -> bool:
    """Whether what napari shows is closed already, as when a program closes the viewer."""
    central = window.centralWidget()
    children = central.findChildren(QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly) if central else []
    return bool(children) and all(child.isHidden() for child in children)
