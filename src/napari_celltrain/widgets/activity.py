"""One bar in napari's activity dock."""

from __future__ import annotations

from napari.utils import progress
from qtpy.QtCore import QObject, QTimer
from qtpy.QtGui import QMovie
from qtpy.QtWidgets import QApplication, QLabel, QMainWindow

from napari_celltrain.widgets.own_layers import PAUSE_MS


class Activity(QObject):
    """A bar from now until :meth:`close`.

    napari handles the window's events while it moves a bar, and crashes over nested bars that are closed together. So
    there is one bar, moved from a timer: whoever calls :meth:`show` is never called again before it returns.

    While there is a bar, napari plays a film of 41 pictures a second in its status bar. Each has the whole window put
    together anew: half a core, for hours, where a processor does the work of a graphics card. So the film stands still
    and goes on by one picture when the bar moves.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bar: progress | None = None
        self._wanted = (0, 0, "")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self._move)
        self._halted: list[QMovie] = []
        self._timer.start()  # napari has the whole window drawn for a new bar: not while a run is begun

    def show(self, done: int, total: int, text: str) -> None:
        self._wanted = (done, total, text)
        self._halt()
        if not self._timer.isActive():
            self._timer.start()

    def close(self) -> None:
        self._timer.stop()
        for movie in self._halted:
            if movie.state() == QMovie.MovieState.Paused:  # there may be bars of others; else napari ends it now
                movie.setPaused(False)
        if self._bar is not None:
            self._bar.close()
        self.deleteLater()

    def _move(self) -> None:
        done, total, text = self._wanted
        total = max(1, total)
        if self._bar is None:
            # `gui` keeps the bar out of the terminal that napari was started from; without a total it would never rest.
            self._bar = progress(total=1, desc="CellTrain", gui=True)
            self._halt()
        if self._bar.total != total:
            self._bar.total = total
        if text and self._bar.desc != f"{text}: ":
            self._bar.set_description(text)
        if self._bar.n != done:
            self._bar.update(done - self._bar.n)

    def _halt(self) -> None:
        if not self._halted:
            self._halted = _running_movies()
        for movie in self._halted:
            movie.setPaused(True)
            movie.jumpToNextFrame()


def _running_movies() -> list[QMovie]:
    """Those in status bars, found by what Qt tells of a window, as napari has no name for them."""
    bars = [window.statusBar() for window in QApplication.topLevelWidgets() if isinstance(window, QMainWindow)]
    movies = [label.movie() for bar in bars if bar is not None for label in bar.findChildren(QLabel)]
    return [movie for movie in movies if movie is not None and movie.state() == QMovie.MovieState.Running]
