"""Where the events of a run come from: a process of its own, napari's own thread, or a run folder that is watched.

All three look the same from outside: :meth:`RunSource.batches` is iterated in napari's worker thread, everything else
is called by the window. Events come in batches, since each batch has the window drawn again and a worker's yields queue
without back-pressure. Batches are at least some seconds apart (:data:`PAUSES`; superseded steps are dropped), but come
at once when a run begins, ends, or is asked to.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import CellTrainError, RunFolderError
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Prepared,
    Saved,
    Started,
    StepDone,
    StopRequest,
    StopRequested,
    Validated,
    ValidationProgressed,
    Warned,
)
from napari_celltrain.widgets import responsive
from napari_celltrain.widgets.background import explain

MAX_BATCH = 1000
"""So that even the past of a long run is taken in small bites."""
PAUSES = (0.25, 5.0)
"""Seconds between two batches, at least and at most."""
NOT_BEGUN = "Training was stopped before it had begun; nothing was trained."
_SUPERSEDED = (StepDone, ValidationProgressed)  # only the latest of these counts
PASSING = (*_SUPERSEDED, Prepared)
"""Of no interest once they are past."""
_URGENT = (Started, StopRequested, Warned, Finished, Failed)
_REACHED = (EpochDone, Validated, Saved)


class RunSource(ABC):
    """One run, or one sitting of it. To be iterated once."""

    outlives_napari = True
    """Whether the run goes on when napari is closed."""

    def __init__(self, results: Path, folder: RunFolder | None = None) -> None:
        self.results = results
        """The folder in which that of the run is made."""
        self.folder = folder
        """None until training has started in it."""
        self.stop_request: StopRequest | None = None
        """The most urgent stop asked for by :meth:`request_stop`."""
        self.left = False
        self._begun = False

    @abstractmethod
    def _looks(self) -> Iterator[Sequence[Event]]:
        """New events, look by look; this may raise."""

    def batches(self) -> Iterator[tuple[Event, ...]]:
        """What happens, as it happens; every error comes as :class:`Failed`, never as an exception."""
        waiting: list[Event] = []
        last = 0.0
        for events in self._noted():
            for event in events:
                if waiting and isinstance(event, _SUPERSEDED) and type(waiting[-1]) is type(event):
                    waiting.pop()
                waiting.append(event)
                if len(waiting) == MAX_BATCH:
                    yield tuple(waiting)
                    waiting = []
            if not waiting:
                continue
            is_urgent = any(isinstance(event, _URGENT) for event in waiting)
            # inside napari nobody looks until the next event, which may be long in coming after an epoch or validation
            may_rest = self.outlives_napari or isinstance(waiting[-1], _SUPERSEDED)
            if is_urgent or time.monotonic() - last >= (responsive.pause(*PAUSES) if may_rest else PAUSES[0]):
                yield tuple(waiting)
                waiting, last = [], time.monotonic()
        if waiting:
            yield tuple(waiting)

    def request_stop(self, now: bool) -> None:
        """After the next validation, or ``now``. Raises ``RunFolderError`` where the request cannot be written.

        Before training has begun there is nothing to keep, and the run is given up.
        """
        before = self.stop_request
        # first remembered, then looked whether training has begun, which _noted does the other way round
        self.stop_request = "stop-now" if now else before or "stop"
        if self._begun and self.folder is not None:
            try:
                self.folder.request_stop(now)
            except RunFolderError:
                self.stop_request = before
                raise

    def leave(self) -> None:
        """Listen no longer; :meth:`batches` ends soon. The run itself goes on."""
        self.left = True

    def _noted(self) -> Iterator[Sequence[Event]]:
        try:
            if self.folder is not None and not self._begun:  # resumed: curves and predictions go on where they ended
                with contextlib.suppress(CellTrainError, OSError):  # resuming itself will say so
                    yield [event for event in self.folder.read_events() if isinstance(event, _REACHED)]
            for events in self._looks():
                for event in events:
                    if isinstance(event, Started) and not self._begun:
                        self.folder = self.folder or RunFolder(self.results / event.run)
                        self._begun = True
                        if self.stop_request is not None:
                            with contextlib.suppress(RunFolderError):
                                self.folder.request_stop(self.stop_request == "stop-now")
                yield events
        except Exception as error:  # also RuntimeError, which napari's worker would swallow
            yield [Failed(message=explain(error, "Training"), time=time.time())]


class ProcessRun(RunSource):
    """Training in a process of its own: a run that is watched, and its process."""

    def __init__(self, child: process.Child, results: Path, folder: RunFolder | None = None) -> None:
        super().__init__(results, folder)
        self.child = child

    def _looks(self) -> Iterator[Sequence[Event]]:
        return process.follow(self.child, self._last_word, lambda: self.left)

    def request_stop(self, now: bool) -> None:
        super().request_stop(now)
        if not self._begun:
            self.child.terminate()

    def _last_word(self) -> Event:
        """Why the process ended without saying so itself, what is left of the run, and how to go on."""
        if self.stop_request is not None and not self._begun:
            return Failed(message=NOT_BEGUN, time=time.time())
        if self.folder is None:
            rescue = "Training had not begun."
        else:
            rescue = "What it had saved is intact; continue with Resume, below."
        return Failed(message=self.child.exit_message("The training process", rescue), time=time.time())


class WatchedRun(RunSource):
    """A run that something else trains, or has trained."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.path.parent, folder)
        self._begun = True
        self._watched = folder

    def _looks(self) -> Iterator[Sequence[Event]]:
        return process.follow(self._watched, lambda: process.gone(self._watched, "Resume, below"), lambda: self.left)


class ThreadRun(RunSource):
    """Training in napari's worker thread, by the generator that ``begin`` makes: to iterate is to train."""

    outlives_napari = False

    def __init__(self, begin: Callable[[], Iterable[Event]], results: Path, folder: RunFolder | None = None) -> None:
        super().__init__(results, folder)
        self._begin = begin

    def leave(self) -> None:
        """The run cannot go on without napari: it saves its best model and ends."""
        self.request_stop(now=True)

    def _looks(self) -> Iterator[Sequence[Event]]:
        # libgomp's threads spin while they wait and starve the window; it reads this when torch is first loaded
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        events: Iterable[Event] = ()
        try:
            with responsive.background_work():
                events = self._begin()
                for event in events:
                    yield [event]
                    if self.stop_request is not None and not self._begun:
                        yield [Failed(message=NOT_BEGUN, time=time.time())]
                        return
        finally:
            if isinstance(events, Generator):
                events.close()  # the lock on the run folder must not wait for the garbage collector


def spare_cores() -> int:
    """How many processor cores to compute on while a window is open: it needs one itself."""
    me = psutil.Process()
    cores = len(me.cpu_affinity()) if hasattr(me, "cpu_affinity") else psutil.cpu_count() or 1
    return max(1, cores - 1)
