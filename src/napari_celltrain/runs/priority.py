"""Making a process yield the processor to the windows of the desktop."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

NICENESS = 10
SESSION_NICENESS = 5
"""A third of what others get who want all they can; with 10 a busy machine would leave training a tenth."""
_PATIENCE = 0.15  # seconds; Linux takes one such wish in a tenth of a second, from all processes together


def step_back(pid: int) -> None:
    """Give the process ``pid``, which leads a session of its own, less of the processor than windows have.

    To be called before it starts threads, which inherit its priority. Where the system refuses, it keeps what it has.
    """
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if hasattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS"):  # Windows
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(max(NICENESS, process.nice()))  # never raise one that has stepped back further
    _step_back_as_session(pid)


def _step_back_as_session(pid: int) -> None:
    """Linux shares the processor out by sessions first, each with a priority of its own (sched(7), "autogroup").

    Of a process that leads a session, its own priority counts among the threads of that session only.
    """
    place = Path(f"/proc/{pid}/autogroup")
    for _ in range(2):
        try:
            place.write_text(str(SESSION_NICENESS), encoding="ascii")
            return
        except BlockingIOError:  # another process was first
            time.sleep(_PATIENCE)
        except OSError:  # another system, or a kernel without it
            return
