"""What is handed to a worker of napari once.

One piece of work at a time in a thread, with progress, a way to give it up, and nothing kept alive afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_celltrain.widgets.responsive import quick_switching
from napari_celltrain.widgets.run.sources import failure

T = TypeVar("T")


class Parcel(Generic[T]):
    """Holds its content until it is taken. napari never lets go of a worker, nor of what it was given."""

    def __init__(self, content: T) -> None:
        self._content: list[T] = [content]

    def take(self) -> T:
        """Raises ``LookupError`` the second time."""
        return self._content.pop()


# --- background ------------------------------------------------------------------------------------------

_LOOK_MS = 100
_PATIENCE_MS = 1500
"""After this, work that was given up is no longer waited for: reading a slow file cannot be interrupted."""


class Job:
    """What the window and the thread share. The thread writes how far it is, the window that it should leave.

    napari keeps every worker, with what it was given, as long as it runs; so the work is taken out when it begins and
    its result when it is fetched.
    """

    def __init__(self, work: Callable[[Job], Any], activity: str) -> None:
        self._work: Callable[[Job], Any] | None = work
        self._activity = activity
        self._cancelled = threading.Event()
        self._notes: deque[Any] = deque()
        self._result: Any = None
        self.message: str | None = None
        """Why there is no result."""
        self.is_done = False
        self.progress: tuple[int, int, str] = (0, 0, "")

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def tell(self, done: int, total: int, text: str = "") -> None:
        """From the thread: ``done`` of ``total``, which is 0 where it is not known."""
        self.progress = (done, total, text)

    def note(self, item: Any) -> None:
        """From the thread: something for the window that must not be lost, as progress may be."""
        self._notes.append(item)

    def notes(self) -> Iterator[Any]:
        """What has been noted since the last call."""
        while self._notes:
            yield self._notes.popleft()

    def wait_for_cancel(self, seconds: float) -> bool:
        return self._cancelled.wait(seconds)

    def run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            with quick_switching():  # torch may have to be imported
                result = None if self.is_cancelled else work(self)
            if not self.is_cancelled:
                self._result = result
        except Exception as error:
            self.message = failure(error, self._activity).message
        finally:
            self.is_done = True

    def take(self) -> Any:
        result, self._result = self._result, None
        return result


class Background(QObject):
    """Runs the last job asked for; an earlier one that still goes on is given up, and its answer not heard."""

    progressed = Signal(int, int, str)
    """Done, of how many (0: not known), and what."""
    noted = Signal(object)
    answered = Signal(object)
    failed = Signal(str)
    ended = Signal()
    """After ``answered`` and ``failed``, and after :meth:`cancel`."""

    def __init__(self, activity: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._activity = activity
        self._job: Job | None = None
        self._told: tuple[int, int, str] = (0, 0, "")
        self._clock = QTimer(self)
        self._clock.setInterval(_LOOK_MS)
        self._clock.timeout.connect(self._look)
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(_PATIENCE_MS)
        self._patience.timeout.connect(self._let_go)

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    def start(self, work: Callable[[Job], Any]) -> None:
        """Call ``work(job)`` in a thread; it should leave soon once ``job.is_cancelled``."""
        self._drop()
        self._job = job = Job(work, self._activity)
        # a window that is gone wants no answer, and napari waits for its threads before it ends
        self.destroyed.connect(job.cancel)
        worker: Any = create_worker(job.run, _start_thread=False, _worker_class=_Worker)
        worker.job = job
        worker.finished.connect(self._look)
        worker.start()
        self._told = (0, 0, "")
        self._clock.start()

    def cancel(self) -> None:
        """Give up; ``ended`` comes as soon as the thread has left, and in any case in a moment."""
        if self._job is not None and not self._job.is_cancelled:
            self._job.cancel()
            self._patience.start()

    def _look(self) -> None:
        job = self._job
        if job is None:
            return
        is_done = job.is_done  # asked before the notes are read, so that none is left behind
        for item in job.notes():
            self.noted.emit(item)
        if not is_done:
            if job.progress != self._told and not job.is_cancelled:
                self._told = job.progress
                self.progressed.emit(*job.progress)
            return
        self._drop()
        if not job.is_cancelled:
            if job.message is None:
                self.answered.emit(job.take())
            else:
                self.failed.emit(job.message)
        if self._job is None:  # whoever was answered may have begun the next one
            self.ended.emit()

    def _let_go(self) -> None:
        if self._job is not None:
            self._drop()
            self.ended.emit()

    def _drop(self) -> None:
        self._clock.stop()
        self._patience.stop()
        job, self._job = self._job, None
        if job is not None:
            if not job.is_done:
                job.cancel()
            self.destroyed.disconnect(job.cancel)


class _Worker(FunctionWorker):  # type: ignore[misc]  # napari is untyped
    job: Job

    def quit(self) -> None:
        """napari is being closed."""
        self.job.cancel()
