"""How long the window takes to be drawn, so that whatever renews by itself does so no more often than that allows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QWidget

SHARE = 0.005
"""Of the time: what one thing that renews by itself may take of the window's.

Where the processor draws, as over a remote desktop, any change in a window that shows an OpenGL canvas has the whole
window put together anew: 20 ms and more. A graphics card does that in far less, and news come as much more often.
"""
_NUM_LEVELS = 12  # of layouts in layouts
_HELD_MS = 8
_WEIGHT = 0.2  # of the latest redraw in the mean


@contextmanager
def drawn_once(widget: QWidget) -> Iterator[None]:
    """Change what ``widget`` contains: the window is drawn once afterwards, not at every step and for every layout."""
    widget.setUpdatesEnabled(False)  # a bar that moves would be drawn at once
    try:
        yield
        for _ in range(_NUM_LEVELS):  # each tells the one above it
            QCoreApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest.value)
    finally:
        widget.setUpdatesEnabled(True)


def hold_redraws(widget: QWidget) -> None:
    """Have the window drawn a moment later: what is done now and drawing it delay the event loop one after the other,
    and not together."""
    window = widget.window()
    if window is not None:
        window.setUpdatesEnabled(False)
        QTimer.singleShot(_HELD_MS, partial(_release, window))


def _release(window: QWidget) -> None:
    with contextlib.suppress(RuntimeError):  # it was closed meanwhile
        window.setUpdatesEnabled(True)
        for dock in window.findChildren(QDockWidget):
            if dock.isWindow():  # undocked meanwhile: a window of its own, which the line above passes over
                dock.setUpdatesEnabled(True)


class RedrawMeter(QObject):
    """Follows how long ``window`` takes for a redraw; there is one to a window, which owns it."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.seconds = 0.0
        """A running mean; 0 before the first redraw."""
        self._begun: float | None = None
        window.installEventFilter(self)

    @classmethod
    def of(cls, widget: QWidget) -> RedrawMeter:
        """That of the window in which ``widget`` is now."""
        window = widget.window()
        assert window is not None
        found = window.findChild(cls, options=Qt.FindChildOption.FindDirectChildrenOnly)
        return found if isinstance(found, cls) else cls(window)

    def pause(self, shortest: float, longest: float) -> float:
        """Seconds from one redraw to the next, so that they take no more than :data:`SHARE` of the time."""
        return min(max(self.seconds / SHARE, shortest), longest)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() == QEvent.Type.UpdateRequest and self._begun is None:
            self._begun = time.perf_counter()
            QTimer.singleShot(0, self._take)  # the window is drawn before any timer gets its turn
        return False

    def _take(self) -> None:
        if self._begun is not None:
            seconds, self._begun = time.perf_counter() - self._begun, None
            self.seconds += (_WEIGHT if self.seconds else 1.0) * (seconds - self.seconds)
