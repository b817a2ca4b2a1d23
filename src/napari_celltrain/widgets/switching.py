"""Python holds up the window less while threads of ours are at work: its lock changes hands sooner, and its garbage
collector does not go through everything.

A thread that wants the lock waits 5 ms before it may ask for it. The window's thread lets go of it at every call of Qt
or OpenGL and has to get it back: with a thread beside it that imports torch or draws a plot, every event of the mouse
would take 5 ms, and a frame of the viewer a tenth of a second and more.

A full collection looks at every object there is, in napari with torch a million, and stops all threads for half a
second. Imports and added layers bring it about. It is put off as far as small collections alone will do: they free
whatever is young.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
