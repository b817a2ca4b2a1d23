"""Python holds up the window less while threads of ours are at work: its lock changes hands sooner, and its garbage
collector does not go through everything.

A thread that wants the lock waits 5 ms before it may ask for it. The window's thread lets go of it at every call of Qt
or OpenGL and has to get it back: with a thread beside it that imports torch or draws a plot, every event of the mouse
would take 5 ms, and a frame of the viewer a tenth of a second and more.

A full collection looks at every object there is, in napari with torch a million, and stops all threads for half a
second. Imports and added layers bring it about. It is put off as far as small collections alone will do: they free
whatever is young.

How long the window takes to be drawn, so that whatever renews by itself does so no more often than that allows.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from qtpy.QtCore import QCoreApplication, QEvent, QTimer
from qtpy.QtWidgets import QDockWidget, QWidget

_SECONDS = 0.0005
_COLLECTIONS = 1000
"""Of the second generation before a full one, which Python does after 10: seven million objects more than now."""

_lock = threading.Lock()
_users = 0
_before = 0.0
_thresholds = (0, 0, 0)


def begin() -> None:
    """To be followed by :func:`end`; may be called by several at a time."""
    global _users, _before, _thresholds
    with _lock:
        if _users == 0:
            _before, _thresholds = sys.getswitchinterval(), gc.get_threshold()
            sys.setswitchinterval(min(_SECONDS, _before))
            gc.set_threshold(*_thresholds[:2], max(_COLLECTIONS, _thresholds[2]))
        _users += 1


def end() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            sys.setswitchinterval(_before)
            gc.set_threshold(*_thresholds)


def collect_as_usual() -> None:
    """Something large was given away, such as a layer: its memory must not wait for the end of a long run."""
    with _lock:
        if _users:
            gc.set_threshold(*_thresholds)


@contextmanager
def quick_switching() -> Iterator[None]:
    """For work in a thread."""
    begin()
    try:
        yield
    finally:
        end()


# --- redraws ---------------------------------------------------------------------------------------------

SHARE = 0.005
"""Of the time: what one thing that renews by itself may take of the window's.

Where the processor draws, as over a remote desktop, any change in a window that shows an OpenGL canvas has the whole
window put together anew: 20 ms and more. A graphics card does that in far less, and news come as much more often.
"""
_NUM_LEVELS = 12  # of layouts in layouts
_HELD_MS = 8
_WEIGHT = 0.2  # of the latest redraw in the mean


_redraw_seconds = 0.005


def redraw_seconds() -> float:
    """How long a redraw of the window takes, as a running mean."""
    return _redraw_seconds


def pause(shortest: float, longest: float) -> float:
    """Seconds from one redraw to the next, so that they take no more than :data:`SHARE` of the time."""
    return min(max(_redraw_seconds / SHARE, shortest), longest)


@contextmanager
def drawn_once(widget: QWidget) -> Iterator[None]:
    """Change what ``widget`` contains: the window is drawn once afterwards, not at every step and for every layout.

    How long that takes is measured, for :func:`pause`.
    """
    global _redraw_seconds
    widget.setUpdatesEnabled(False)  # a bar that moves would be drawn at once
    try:
        yield
        for _ in range(_NUM_LEVELS):  # each posts a request for the one above it
            QCoreApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest.value)
    finally:
        widget.setUpdatesEnabled(True)
    begun = time.perf_counter()
    QCoreApplication.sendPostedEvents(widget.window(), QEvent.Type.UpdateRequest.value)
    _redraw_seconds += _WEIGHT * (time.perf_counter() - begun - _redraw_seconds)


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
