"""Puts the plot into the viewer when there is something to draw, and takes it out again with the widget."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_celltrain.events import EpochDone, Event, Failed, Finished, Started, Validated
from napari_celltrain.widgets.controller import RunController
from napari_celltrain.widgets.curves import CurvesPlot, import_matplotlib, matplotlib_is_imported
from napari_celltrain.widgets.own_layers import PAUSE_MS
from napari_celltrain.widgets.redraws import drawn_once, hold_redraws

if TYPE_CHECKING:
    from napari import Viewer

NAME = "CellTrain curves"
_HEIGHT = 250
_LATER_MS = 3 * PAUSE_MS  # after a start, which has enough to show by itself
_CORNER = Qt.Corner.BottomRightCorner
_DRAWN = (Started, EpochDone, Validated, Finished, Failed)


class CurvesDock(QObject):
    """Listens to the controller; matplotlib is imported in a thread when the first run begins."""

    def __init__(self, viewer: Viewer, controller: RunController, parent: QWidget) -> None:
        super().__init__(parent)
        self._widget = parent
        self._viewer = viewer
        self._controller = controller
        self._plot: CurvesPlot | None = None
        self._is_importing = False
        self._is_removed = False
        self._is_docking = False
        controller.stateChanged.connect(self._renew)
        controller.eventsReceived.connect(self._draw)
        if controller.is_busy or controller.history().rows:
            self._begin()

    @property
    def plot(self) -> CurvesPlot | None:
        return self._plot

    def remove(self) -> None:
        """Out of the viewer, for good."""
        self._is_removed = True
        plot, self._plot = self._plot, None
        if plot is None:
            return
        plot.forget_viewer()
        window = plot.window()
        if isinstance(window, QMainWindow):
            window.setCorner(_CORNER, Qt.DockWidgetArea.BottomDockWidgetArea)  # as Qt has it
        with contextlib.suppress(LookupError, RuntimeError, AttributeError):  # the user, or napari, was quicker
            self._viewer.window.remove_dock_widget(plot)
        plot.deleteLater()

    def _renew(self) -> None:
        """As soon as a run begins; who closes the plot does not see it again before the next run."""
        if self._controller.state == "preparing" and not self._controller.events:
            QTimer.singleShot(_LATER_MS, self._begin)

    def _begin(self) -> None:
        if self._is_removed or self._is_importing or self._is_docking or self._is_docked():
            return
        if matplotlib_is_imported():
            self._dock()
            return
        self._is_importing = True
        worker = create_worker(import_matplotlib)
        worker.finished.connect(self._finish_import)
        worker.start()

    def _finish_import(self) -> None:
        self._is_importing = False
        if matplotlib_is_imported():
            self._begin()

    def _dock(self) -> None:
        if self._plot is not None:  # closed by its ✕
            self._plot.forget_viewer()
            self._plot.deleteLater()
        self._plot = CurvesPlot(self._viewer)
        self._is_docking = True
        QTimer.singleShot(PAUSE_MS, self._put)

    def _put(self) -> None:
        self._is_docking = False
        if self._plot is None:  # taken away meanwhile
            return
        with drawn_once(self._widget.window() or self._widget):
            dock = self._viewer.window.add_dock_widget(self._plot, name=NAME, area="bottom")
            window = self._plot.window()
            if isinstance(window, QMainWindow):
                # Below the canvas only: the widget at the right keeps its whole height.
                window.setCorner(_CORNER, Qt.DockWidgetArea.RightDockWidgetArea)
                window.resizeDocks([dock], [_HEIGHT], Qt.Orientation.Vertical)
        hold_redraws(self._widget)
        self._plot.show_history(self._controller.history())

    def _is_docked(self) -> bool:
        return self._plot is not None and self._plot.parent() is not None

    def _draw(self, events: tuple[Event, ...]) -> None:
        if self._plot is not None and self._is_docked() and any(isinstance(event, _DRAWN) for event in events):
            self._plot.show_history(self._controller.history())
