"""What keeps the window awake while something of ours goes on: threads that give way, redraws that are few, timers."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qtpy.QtCore import QCoreApplication, QEvent, QObject, QTimer
from qtpy.QtWidgets import QWidget

_INTERVAL = 0.0005  # seconds
_COLLECTIONS = 1000
"""Of the second generation before a full one, which Python does after 10."""
_lock = threading.Lock()
_before: list[tuple[float, tuple[int, int, int]]] = []


@contextmanager
def background_work() -> Iterator[None]:
    """Around work in a thread: Python's lock changes hands sooner, and full garbage collections wait.

    The window lets go of the lock at every call of Qt or OpenGL and gets it back 5 ms later as Python has it: beside a
    thread that imports torch, a frame of the viewer would take a tenth of a second and more. A full collection stops
    all threads for half a second, and in a thread it deletes what only the window may delete, which can crash napari.
    """
    with _lock:
        _before.append((sys.getswitchinterval(), gc.get_threshold()))
        interval, (youngest, young, old) = _before[0]
        sys.setswitchinterval(min(_INTERVAL, interval))
        gc.set_threshold(youngest, young, max(_COLLECTIONS, old))
    try:
        yield
    finally:
        with _lock:  # the last one to leave restores what the first one found
            interval, thresholds = _before.pop()
            sys.setswitchinterval(interval)
            gc.set_threshold(*thresholds)


SHARE = 0.005
"""Of the window's time that one thing may take which renews by itself.

Where the processor draws, as over a remote desktop, any change in a window that shows an OpenGL canvas has the whole
window put together again, which takes 20 ms and more.
"""
_NUM_LEVELS = 12  # of layouts in layouts
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


def timer(owner: QObject, slot: Callable[[], None], milliseconds: int = 0, *, repeats: bool = False) -> QTimer:
    """A timer that calls ``slot`` when it is started: ``milliseconds`` later, or as late as its ``start`` says."""
    made = QTimer(owner)
    made.setSingleShot(not repeats)
    made.setInterval(milliseconds)
    made.timeout.connect(slot)
    return made
