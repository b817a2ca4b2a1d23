"""One piece of work at a time in a thread of napari, with progress and cancelling; nothing is kept alive afterwards."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Signal

from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.widgets.responsive import background_work, timer

_LOOK_MS = 200
_PATIENCE_MS = 1500
"""After this, work that was given up is no longer waited for: reading a slow file cannot be interrupted."""

Work = Callable[["Job"], Any]
"""Called with the :class:`Job`. Either an ordinary function, or better a generator function, which can be left at each
yield. It may yield whatever :meth:`Job.report` takes, or None. What it returns is the result."""

logger = logging.getLogger(__name__)


class GivenUpError(Exception):
    """Raised by :meth:`Job.report` to leave work that nobody waits for any more."""


class Job:
    """What the window and the thread share.

    napari keeps every worker and what it was given. So the work is taken out of the job when it begins, and the result
    when it is fetched.
    """

    def __init__(self, work: Work, activity: str) -> None:
        self._work: Work | None = work
        self._activity = activity
        self.cancelled = threading.Event()
        self.progress: deque[tuple[Any, ...]] = deque(maxlen=1)
        self.notes: deque[Any] = deque()
        self.result: Any = None
        self.message: str | None = None
        """Why there is no result."""
        self.is_done = False

    def report(self, item: Any) -> None:
        """Take a tuple ``(done, total, text)`` as progress (``total`` 0: not known; ``text`` may be left out).

        Anything else but None is a note, which is never lost. Raises :class:`GivenUpError` to leave the work.
        """
        if item is not None:
            (self.progress if isinstance(item, tuple) else self.notes).append(item)
        if self.cancelled.is_set():
            raise GivenUpError

    def run(self) -> None:
        """In the thread. No error gets out: napari's workers swallow RuntimeErrors, which most errors of torch are."""
        work, self._work = self._work, None
        assert work is not None
        try:
            with background_work(), contextlib.closing(self._steps(work)) as steps:  # torch may have to be imported
                for item in steps:
                    self.report(item)
        except GivenUpError:
            pass
        except Exception as error:
            self.message = explain(error, self._activity)
        finally:
            self.is_done = True

    def _steps(self, work: Work) -> Generator[Any]:
        """What ``work`` yields, if anything; its result is kept where somebody waits for it."""
        yield  # it may have been given up before it begins
        result = work(self)
        if isinstance(result, Generator):
            result = yield from result
        if not self.cancelled.is_set():
            self.result = result


class Background(QObject):
    """Does the last piece of work asked for. Earlier work is given up, and its result is not reported."""

    progressed = Signal(int, int, str)
    """Done, of how many (0: not known), and what."""
    noted = Signal(object)
    answered = Signal(object)
    """The result."""
    failed = Signal(str)
    ended = Signal()
    """After ``answered`` and ``failed``, and after :meth:`cancel`."""

    def __init__(self, activity: str, parent: QObject | None = None, *, shown: bool = False) -> None:
        """``activity`` names the work in errors, and where ``shown`` also beside a bar among napari's activities."""
        super().__init__(parent)
        self._activity = activity
        self._shown = shown
        self._job: Job | None = None
        self._next: Work | None = None
        self._delay = timer(self, self._begin)
        self._patience = timer(self, self._leave, _PATIENCE_MS)
        self._clock = timer(self, self._look, _LOOK_MS, repeats=True)

    @property
    def is_busy(self) -> bool:
        """Whether something is going on, or about to begin."""
        return self._job is not None or self._next is not None

    def start(self, work: Work, delay_ms: int = 0) -> None:
        """Do ``work`` in a thread, once nothing else has been asked for during ``delay_ms``."""
        self._next = work
        self._give_up()
        self._delay.stop()
        if delay_ms:
            self._delay.start(delay_ms)
        else:
            self._begin()

    def cancel(self) -> None:
        """Give up. ``ended`` comes as soon as the thread has left, and in any case soon."""
        waited = self._next is not None
        self._next = None
        self._delay.stop()
        self._give_up()
        if waited and self._job is None:
            self.ended.emit()

    def _give_up(self) -> None:
        if self._job is not None and not self._job.cancelled.is_set():
            self._job.cancelled.set()
            self._patience.start()

    def _begin(self) -> None:
        """One after the other: two at once would take twice the memory."""
        if self._job is not None or self._next is None or self._delay.isActive():
            return
        self._job, self._next = Job(self._next, self._activity), None
        # a window that is gone wants no answer, and napari waits for its threads before it ends
        self.destroyed.connect(self._job.cancelled.set)
        bar = {"desc": self._activity} if self._shown else None
        worker: Any = create_worker(self._job.run, _start_thread=False, _progress=bar)
        worker.quit = self._job.cancelled.set  # which napari calls when it is closed
        worker.finished.connect(self._look)
        worker.start()
        self._clock.start()

    def _look(self) -> None:
        job = self._job
        if job is None:
            return
        is_done = job.is_done  # read before the notes, so that none is left behind
        if self._next is None:
            while job.notes:
                self.noted.emit(job.notes.popleft())
            if job.progress and not is_done and not job.cancelled.is_set():
                done, total, *text = job.progress.pop()
                self.progressed.emit(done, total, *text or [""])
        if is_done and job is self._job:
            self._leave()

    def _leave(self) -> None:
        """The work is done, or nobody waits for it any longer."""
        job, self._job = self._job, None
        self._clock.stop()
        self._patience.stop()
        if job is None:
            return
        self.destroyed.disconnect(job.cancelled.set)
        if not job.cancelled.is_set():
            if job.message is None:
                result, job.result = job.result, None
                self.answered.emit(result)
            else:
                self.failed.emit(job.message)
        self._begin()
        if not self.is_busy:  # else the answer has begun the next one
            self.ended.emit()


def explain(error: Exception, activity: str) -> str:
    """The sentence for people; a mistake of our own goes to the log with all its details."""
    if isinstance(error, CellTrainError):
        return str(error)
    logger.error("%s ended by an unexpected error.", activity, exc_info=error)
    return f"{activity} was ended by an unexpected error ({type(error).__name__}: {error})."
