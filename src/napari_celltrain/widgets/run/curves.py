"""The live plot: training loss and validation scores against the epoch.

A redraw costs 50 to 200 ms, mostly in Python. So the figure is drawn in a thread, and the window only shows the
picture. Import this module only where matplotlib has been imported in a thread before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.backends.backend_qt import NavigationToolbar2QT
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari import Viewer
from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer, Signal
from qtpy.QtGui import QImage, QPainter, QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.runs.history import Curves, History, Palette
from napari_celltrain.widgets.responsive import background_work, pause, timer
from napari_celltrain.widgets.theme import fill

PAUSES = (0.5, 5.0)
"""Seconds between two redraws, at least and at most."""
_LATER_MS = 100
"""What asks for a drawing mostly has the window drawn, too: a thread beside that would make it take twice as long."""

logger = logging.getLogger(__name__)


class CurvesPlot(QWidget):
    """The canvas with its toolbar. :meth:`show_history` may be called as often as one likes."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._history = History()
        self._curves: Curves | None = None
        self._looks: object = None  # of the curves
        self._side_by_side = False
        self._drawn_at = 0.0
        self.figure = Figure(figsize=(6.4, 2.2), layout="constrained")  # its size is the canvas's hint
        self.canvas: Any = QuietCanvas(self.figure, self._renew_figure)
        self.canvas.setMinimumSize(200, 120)
        self.canvas.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.canvas.setAccessibleName("Training curves")
        self.toolbar: Any = Toolbar(self.canvas, self)  # type: ignore[no-untyped-call]
        fill(QVBoxLayout(self), self.canvas, self.toolbar, spacing=0).setStretchFactor(self.canvas, 1)
        self._timer = timer(self, self.canvas.renew)
        viewer.events.theme.connect(self._begin_again)
        self.canvas.renew()

    def show_history(self, history: History) -> None:
        """Show it soon: within half a second where the window is drawn quickly."""
        self._history = history
        if not self._timer.isActive():
            now = time.monotonic()
            self._drawn_at = max(now, self._drawn_at + pause(*PAUSES))
            self._timer.start(int((self._drawn_at - now) * 1000))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Put the two plots one above the other, or side by side where the place is low and wide."""
        super().resizeEvent(event)
        height = self.height() - self.toolbar.height()  # the canvas itself is given its size later
        side_by_side = height < 330 and self.width() > 1.5 * height
        if side_by_side != self._side_by_side:
            self._side_by_side = side_by_side
            self._begin_again()

    def forget_viewer(self) -> None:
        """Follow the viewer's theme no longer."""
        self._viewer.events.theme.disconnect(self._begin_again)

    def _begin_again(self, event: object = None) -> None:
        self.toolbar.update()  # what was zoomed to is gone
        self.canvas.renew()

    def _renew_figure(self) -> None:
        """In the canvas's thread."""
        theme = get_theme(str(self._viewer.theme))
        # curves that stand out on the theme's ground and from each other, also to colour-blind eyes
        colors = theme.foreground.as_hex(), "#0072B2", "#D55E00", "#009E73"
        if sum(theme.background.as_rgb_tuple()[:3]) < 3 * 128:
            colors = theme.primary.as_hex(), "#56B4E9", "#E69F00", "#2EC4A0"
        palette, side_by_side = Palette(theme.background.as_hex(), theme.text.as_hex(), *colors), self._side_by_side
        if self._curves is None or self._looks != (palette, side_by_side):
            self._looks = palette, side_by_side
            self.figure.clear()
            self._curves = Curves(self.figure, palette, side_by_side)
        self._curves.show(self._history)


class Toolbar(NavigationToolbar2QT):
    """Without the dialogs that lay out and edit a figure: ours does that itself."""

    toolitems: Any = [  # noqa: RUF012  # as the base class has it
        item
        for item in NavigationToolbar2QT.toolitems
        if item[3] not in ("configure_subplots", "edit_parameters", None)
    ]


class QuietCanvas(FigureCanvasQTAgg):
    """Draws its figure in a thread, where ``renew_figure`` first brings it up to date; nothing else may change it.

    Moving and zooming by the toolbar are exceptions, which at worst cost a picture that is drawn again at once.
    """

    _drawn = Signal(object)

    def __init__(self, figure: Figure, renew_figure: Callable[[], None]) -> None:
        super().__init__(figure)  # type: ignore[no-untyped-call]
        self._renew_figure = renew_figure
        self._image: QImage | None = None
        self._is_stale = False
        self._asked = False
        self._drawing = False
        self._lock = threading.Lock()  # of the figure
        self._drawn.connect(self._show)

    def renew(self) -> None:
        """Have the figure brought up to date, and draw it again."""
        self._is_stale = True
        self.draw_idle()

    def draw_idle(self) -> None:
        self._asked = True
        # before it has its place in a window, it is smaller than a plot can be; what then makes it larger asks again
        is_placed = self.width() >= max(1, self.minimumWidth()) and self.height() >= max(1, self.minimumHeight())
        if is_placed and not getattr(self, "_drawing", True):
            self._drawing = True
            QTimer.singleShot(_LATER_MS, self._begin)

    draw = draw_idle

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

    def _begin(self) -> None:
        threading.Thread(target=self._work, args=(self._is_stale,), name="celltrain-plot", daemon=True).start()
        self._asked = self._is_stale = False

    def _work(self, is_stale: bool) -> None:
        pixels = None
        try:
            with self._lock, background_work():
                if is_stale:
                    self._renew_figure()
                width, height = (max(1, int(size)) for size in self.figure.bbox.size)
                renderer: Any = RendererAgg(width, height, self.figure.dpi)  # type: ignore[no-untyped-call]
                self.figure.draw(renderer)
                pixels = np.array(renderer.buffer_rgba())
        except Exception as error:  # a picture must never end anything; the next one may succeed
            logger.warning("The plot could not be drawn.", exc_info=error)
        with contextlib.suppress(RuntimeError):  # the canvas was deleted meanwhile
            self._drawn.emit(pixels)

    def _show(self, pixels: np.ndarray | None) -> None:
        self._drawing = False
        if pixels is not None:
            height, width = pixels.shape[:2]
            image = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
            self._image = image.copy()  # a QImage does not keep the bytes that it was made of
            self.update()
        if self._asked:
            self.draw_idle()
