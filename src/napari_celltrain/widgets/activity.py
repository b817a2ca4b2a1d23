"""One bar in napari's activity dock."""

from __future__ import annotations

from napari.utils import progress
from qtpy.QtCore import QObject, QTimer

_PAUSE_MS = 250


class Activity(QObject):
    """A bar from now until :meth:`close`.

    napari handles the window's events while it moves a bar, and crashes over nested bars that are closed together. So
    there is one bar, moved from a timer: whoever calls :meth:`show` is never called again before it returns.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        # `gui` keeps the bar out of the terminal that napari was started from.
        self._bar = progress(total=0, desc="CellTrain", gui=True)
        self._wanted = (0, 0, "")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE_MS)
        self._timer.timeout.connect(self._move)

    def show(self, done: int, total: int, text: str) -> None:
        self._wanted = (done, total, text)
        if not self._timer.isActive():
            self._timer.start()

    def close(self) -> None:
        self._timer.stop()
        self._bar.close()
        self.deleteLater()

    def _move(self) -> None:
        done, total, text = self._wanted
        if self._bar.total != total:
            self._bar.total = total
        if text and self._bar.desc != f"{text}: ":
            self._bar.set_description(text)
        if self._bar.n != done:
            self._bar.update(done - self._bar.n)
