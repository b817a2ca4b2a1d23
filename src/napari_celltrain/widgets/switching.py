"""Python's lock changes hands sooner while threads of ours are at work.

A thread that wants the lock waits 5 ms before it may ask for it. The window's thread lets go of it at every call of Qt
or OpenGL and has to get it back: with a thread beside it that imports torch or draws a plot, every event of the mouse
would take 5 ms, and a frame of the viewer a tenth of a second and more.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS = 0.0005

_lock = threading.Lock()
_users = 0
_before = 0.0


def begin() -> None:
    """To be followed by :func:`end`; may be called by several at a time."""
    global _users, _before
    with _lock:
        if _users == 0:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_SECONDS, _before))
        _users += 1


def end() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            sys.setswitchinterval(_before)


@contextmanager
def quick_switching() -> Iterator[None]:
    """For work in a thread."""
    begin()
    try:
        yield
    finally:
        end()
