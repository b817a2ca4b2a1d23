"""A matplotlib canvas that never lets the window wait: figures are drawn in a thread, the window only shows pictures.

A redraw costs 50 to 200 ms, mostly in Python; in a thread it delays the window by a switch of threads, 5 ms at most.
Import this module only where matplotlib has been imported in a thread before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.backends.backend_qt import NavigationToolbar2QT
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QImage, QPainter
from qtpy.QtWidgets import QWidget

Change = Callable[[], None]

_LATER_MS = 100
"""What asks for a drawing mostly has the window drawn, too: a thread beside that would make it take twice as long."""

logger = logging.getLogger(__name__)


class Toolbar(NavigationToolbar2QT):
    """Without the dialogs that lay out and edit a figure: ours does that itself."""

    toolitems: Any = [  # noqa: RUF012  # as the base class has it
        item for item in NavigationToolbar2QT.toolitems if item[3] not in ("configure_subplots", None)
    ]

    def __init__(self, canvas: QuietCanvas, parent: QWidget) -> None:
        super().__init__(canvas, parent, coordinates=True)  # type: ignore[no-untyped-call]
        for action in self.actions():
            if action.text() == "Customize":
                self.removeAction(action)


class QuietCanvas(FigureCanvasQTAgg):
    """Whoever changes the figure does so by :meth:`change`, never by itself: the thread may be drawing it.

    Moving and zooming by the toolbar are exceptions, which at worst cost a picture that is drawn again at once.
    """

    _drawn = Signal(object)

    def __init__(self, figure: Figure) -> None:
        super().__init__(figure)  # type: ignore[no-untyped-call]
        self._image: QImage | None = None
        self._changes: list[Change] = []
        self._asked = False
        self._drawing = False
        self._lock = threading.Lock()  # of the figure
        self._drawn.connect(self._show)

    def change(self, change: Change) -> None:
        """Call ``change`` in the drawing thread, and draw the figure anew."""
        self._changes.append(change)
        self.draw_idle()

    def draw(self) -> None:
        self.draw_idle()

    def draw_idle(self) -> None:
        self._asked = True
        # before it has its place in a window, it is smaller than a plot can be; what then makes it larger asks again
        is_placed = self.width() >= max(1, self.minimumWidth()) and self.height() >= max(1, self.minimumHeight())
        if is_placed and not getattr(self, "_drawing", True):
            self._drawing = True
            QTimer.singleShot(_LATER_MS, self._begin)

    def _begin(self) -> None:
        self._asked = False
        changes, self._changes = self._changes, []
        threading.Thread(target=self._work, args=(changes,), name="celltrain-plot", daemon=True).start()

    def print_figure(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return FigureCanvasAgg.print_figure(self, *args, **kwargs)

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        if self._image is None:
            painter.fillRect(self.rect(), self.palette().window())
        else:
            painter.drawImage(self.rect(), self._image)
        self._draw_rect_callback(painter)  # type: ignore[no-untyped-call]  # the frame of the zoom tool
        painter.end()

    def _work(self, changes: list[Change]) -> None:
        image = None
        try:
            with self._lock:
                for change in changes:
                    change()
                image = self._render()
        except Exception as error:  # a picture must never end anything; the next one may succeed
            logger.warning("The plot could not be drawn.", exc_info=error)
        try:
            self._drawn.emit(image)
        except RuntimeError:  # the canvas was deleted meanwhile
            return

    def _render(self) -> np.ndarray:
        width, height = (int(size) for size in self.figure.bbox.size)
        renderer: Any = RendererAgg(max(1, width), max(1, height), self.figure.dpi)  # type: ignore[no-untyped-call]
        self.figure.draw(renderer)
        return np.array(renderer.buffer_rgba())

    def _show(self, pixels: np.ndarray | None) -> None:
        self._drawing = False
        if pixels is not None:
            height, width = pixels.shape[:2]
            image = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
            self._image = image.copy()  # a QImage does not keep the bytes that it was made of
            self.update()
        if self._asked:
            self.draw_idle()
