"""The live plot: training loss and validation scores against the epoch, docked in the viewer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from napari.utils.theme import get_theme
from qtpy.QtCore import QTimer
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.runs.history import History
from napari_celltrain.runs.plot import Curves, Palette
from napari_celltrain.widgets.redraws import RedrawMeter

if TYPE_CHECKING:
    from napari import Viewer

PAUSES = (0.5, 5.0)
"""Seconds between two redraws, at least and at most."""
_LOW_HEIGHT = 330  # pixels below which the two plots stand side by side

_imported = threading.Event()


def import_matplotlib() -> None:
    """For a thread: it takes half a second, and minutes where matplotlib looks for fonts for the first time."""
    import napari_celltrain.widgets.canvas  # noqa: F401

    _imported.set()


def matplotlib_is_imported() -> bool:
    return _imported.is_set()


class CurvesPlot(QWidget):
    """The canvas with its toolbar. :meth:`show_history` may be called as often as one likes."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        from matplotlib.figure import Figure

        from napari_celltrain.widgets.canvas import QuietCanvas, Toolbar

        self._viewer = viewer
        self.figure = Figure(figsize=(6.4, 2.2), layout="constrained")  # its size is the canvas's hint
        self.canvas: Any = QuietCanvas(self.figure)
        self.canvas.setMinimumSize(200, 120)
        self.canvas.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.canvas.setAccessibleName("Training curves")
        self.toolbar: Any = Toolbar(self.canvas, self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.canvas, 1)
        layout.addWidget(self.toolbar)
        self._history = History()
        self._curves: Curves | None = None
        self._side_by_side = False
        self._drawn_at = 0.0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._draw)
        viewer.events.theme.connect(self._follow_theme)
        self._arrange()

    def show_history(self, history: History) -> None:
        """Show it soon: within half a second where the window is drawn quickly."""
        self._history = history
        if not self._timer.isActive():
            left = self._drawn_at + RedrawMeter.of(self).pause(*PAUSES) - time.monotonic()
            self._timer.start(max(0, int(left * 1000)))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        self._arrange()

    def forget_viewer(self) -> None:
        """Follow the viewer's theme no longer."""
        self._viewer.events.theme.disconnect(self._follow_theme)

    # --- changes of the figure, all of them made in the canvas's thread ---------------------------------------

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        curves, history = self._curves, self._history
        if curves is None:
            return

        def show() -> None:
            curves.show(history)

        self.canvas.change(show)

    def _arrange(self) -> None:
        """The two plots one above the other, or side by side where the place is low and wide."""
        height = self.height() - self.toolbar.height()  # the canvas itself is given its size later
        side_by_side = height < _LOW_HEIGHT and self.width() > 1.5 * height
        if self._curves is None or side_by_side != self._side_by_side:
            self._side_by_side = side_by_side
            self.toolbar.update()  # what was zoomed to is gone
            self.canvas.change(self._make_curves)

    def _make_curves(self) -> None:
        self.figure.clear()
        self._curves = Curves(self.figure, palette_of(str(self._viewer.theme)), self._side_by_side)
        self._curves.show(self._history)

    def _follow_theme(self, event: object = None) -> None:
        self.canvas.change(self._recolor)

    def _recolor(self) -> None:
        if self._curves is not None:
            self._curves.recolor(palette_of(str(self._viewer.theme)))


def palette_of(theme_name: str) -> Palette:
    """The theme's ground and text; curves that stand out on it and from each other, also to colour-blind eyes."""
    theme = get_theme(theme_name)
    background, text = theme.background.as_hex(), theme.text.as_hex()
    if sum(theme.background.as_rgb_tuple()[:3]) < 3 * 128:
        return Palette(background, text, theme.primary.as_hex(), "#56B4E9", "#E69F00", "#2EC4A0")
    return Palette(background, text, theme.foreground.as_hex(), "#0072B2", "#D55E00", "#009E73")
