"""Events of a run on their way to the window, thinned out and collected.

Where the events of a run come from: a process of its own, napari's own thread, or a run folder that is watched.

All kinds look the same from outside: :meth:`RunSource.batches` is iterated in napari's worker thread, everything else
is called by the window. Steps can come by the hundred a second and a watched run brings its whole past at once, while a
worker's yields queue without back-pressure: so events come in batches, with only the latest of consecutive steps. No
other event is lost. Each batch has the window drawn anew, and whatever changes in it, all of it is put together, which
takes a processor that has no graphics card beside it up to a twentieth of a second. So batches are some time apart
(:attr:`RunSource.pause`), but come at once when a run begins, ends, or is told to.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import psutil

from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Saved,
    Started,
    StepDone,
    StopRequested,
    Validated,
    ValidationProgressed,
    Warned,
)
from napari_celltrain.widgets.background import explain
from napari_celltrain.widgets.responsive import import_engine

Batch = tuple[Event, ...]

MAX_BATCH = 1000
"""So that even the past of a long run, told at once, is taken in small bites."""
SUPERSEDED = (StepDone, ValidationProgressed)
"""Only the latest of these counts."""
_URGENT = (Started, StopRequested, Warned, Finished, Failed)


class Collected:
    """Events on their way to the window."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._taken = 0.0

    @property
    def is_full(self) -> bool:
        return len(self._events) >= MAX_BATCH

    def add(self, event: Event) -> None:
        if self._events and isinstance(event, SUPERSEDED) and type(self._events[-1]) is type(event):
            self._events[-1] = event
        else:
            self._events.append(event)

    def fill(self, told: queue.SimpleQueue[Event | None]) -> bool:
        """Add what has been told since the last call; whether that was all there will be."""
        while not self.is_full:
            try:
                event = told.get_nowait()
            except queue.Empty:
                return False
            if event is None:
                return True
            self.add(event)
        return False

    def is_due(self, seconds: float) -> bool:
        """Whether there is something that cannot wait, or nothing has been taken for so many ``seconds``."""
        is_urgent = self.is_full or any(isinstance(event, _URGENT) for event in self._events)
        return is_urgent or time.monotonic() - self._taken >= seconds

    def take(self) -> Iterator[Batch]:
        """What there is, as a batch; nothing where there is nothing."""
        events, self._events = tuple(self._events), []
        if events:
            self._taken = time.monotonic()
            yield events


# --- run sources -----------------------------------------------------------------------------------------

FIRST_PAUSE = 1.0
PAUSES = (0.25, 5.0)
"""Seconds between two batches, at least and at most."""
_LOOK_SECONDS = 0.1
_REACHED = (EpochDone, Validated, Saved)
NOT_BEGUN = "Training was stopped before it had begun; nothing was trained."


class RunSource(ABC):
    """One run, or one sitting of it. To be iterated once."""

    outlives_napari = True
    """Whether the run goes on when napari is closed."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        self.folder = folder
        """None until training has started in it."""
        self.pause = FIRST_PAUSE
        """Seconds between two batches, to be set by the window as it finds how long it takes to be drawn."""
        self._left = threading.Event()

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """What happens, as it happens; every error is told as :class:`Failed`, never raised."""

    @abstractmethod
    def request_stop(self, now: bool) -> None:
        """After the next validation, or ``now``. Raises ``RunFolderError`` where the request cannot be written."""

    def leave(self) -> None:
        """Listen no longer; :meth:`batches` ends soon. The run itself goes on."""
        self._left.set()

    @property
    def left(self) -> bool:
        return self._left.is_set()


class _QueuedSource(RunSource):
    """A source that can only be waited for: a thread does that, so that :meth:`leave` is answered at once."""

    @abstractmethod
    def _events(self) -> Iterable[Event]:
        """The events, one after the other; this may raise."""

    def batches(self) -> Iterator[Batch]:
        told: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        threading.Thread(target=self._pump, args=(told,), name="celltrain-events", daemon=True).start()
        batch = Collected()
        while not self.left:
            ended = batch.fill(told)
            if batch.is_due(self.pause) or ended:
                yield from batch.take()
            if ended:
                return
            if not batch.is_full:
                self._left.wait(_LOOK_SECONDS)

    def _pump(self, told: queue.SimpleQueue[Event | None]) -> None:
        try:
            for event in self._events():
                told.put(event)
                if self.left:
                    return
        except Exception as error:
            told.put(failure(error))
        finally:
            told.put(None)


class ProcessRun(_QueuedSource):
    """Training in a process of its own; ``launch`` starts it."""

    def __init__(self, launch: Callable[[], process.ChildRun], folder: RunFolder | None = None) -> None:
        super().__init__(folder)
        self._launch = launch
        self._child: process.ChildRun | None = None
        self._wanted: bool | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def request_stop(self, now: bool) -> None:
        with self._lock:
            self._wanted = now
            child = self._child
        if child is not None:
            child.request_stop(now)

    def _events(self) -> Iterator[Event]:
        child = self._launch()
        with self._lock:
            self._child = child
            wanted = self._wanted
        if wanted is not None:
            child.request_stop(wanted)
        if self.folder is not None:
            yield from _past(self.folder)
        for event in child.events():
            self.folder = child.folder
            yield event


class ThreadRun(RunSource):
    """Training in napari's worker thread: whoever iterates :meth:`batches` trains."""

    outlives_napari = False

    def __init__(self, begin: Callable[[], Iterator[Event]], results: Path, folder: RunFolder | None = None) -> None:
        super().__init__(folder)
        self._begin = begin
        self._results = results
        self._begun = False
        self._wanted: bool | None = None
        self._lock = threading.Lock()

    def request_stop(self, now: bool) -> None:
        with self._lock:
            self._wanted = now
            folder = self.folder if self._begun else None
        if folder is not None:
            folder.request_stop(now)

    def leave(self) -> None:
        """The run cannot go on without napari: it saves its best model and ends."""
        self.request_stop(now=True)

    def batches(self) -> Iterator[Batch]:
        _keep_idle_threads_quiet()
        batch = Collected()
        for event in self._guarded():
            batch.add(event)
            # nobody looks at the clock until the next event, which may be long in coming
            if batch.is_due(self.pause if isinstance(event, SUPERSEDED) else PAUSES[0]):
                yield from batch.take()
        yield from batch.take()

    def _guarded(self) -> Iterator[Event]:
        events: Iterator[Event] = iter(())
        try:
            if self.folder is not None:
                yield from _past(self.folder)
            events = self._begin()
            for event in events:
                if isinstance(event, Started):
                    self._enter(event)
                yield event
                if self._wanted is not None and not self._begun:
                    yield Failed(message=NOT_BEGUN, time=time.time())
                    return
        except Exception as error:  # also RuntimeError, which napari's worker would swallow
            yield failure(error)
        finally:
            if isinstance(events, Generator):
                events.close()  # the lock on the run folder must not wait for the garbage collector

    def _enter(self, started: Started) -> None:
        with self._lock:
            self.folder = self.folder or RunFolder(self._results / started.run)
            self._begun = True
            wanted = self._wanted
        if wanted is not None:
            self.folder.request_stop(wanted)


class WatchedRun(_QueuedSource):
    """A run that something else trains, or has trained."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder)
        self._watched = folder

    def request_stop(self, now: bool) -> None:
        self._watched.request_stop(now)

    def _events(self) -> Iterator[Event]:
        return process.watch(self._watched, cancelled=self._left.is_set)


def _past(folder: RunFolder) -> Iterator[Event]:
    """What a run that is resumed has reached: its curves and predictions go on where they ended."""
    with contextlib.suppress(CellTrainError, OSError):  # resuming itself will say so
        for event in folder.read_events():
            if isinstance(event, _REACHED):
                yield event


def in_process(config: RunConfig, waiting: process.WaitingChild | None) -> RunSource:
    def launch() -> process.ChildRun:
        return process.start(config, waiting)

    return ProcessRun(launch)


def in_thread(config: RunConfig) -> RunSource:
    def begin() -> Iterator[Event]:
        import_engine()
        from napari_celltrain.runs import session

        return session.run(config)

    return ThreadRun(begin, config.data.results)


def resumed_in_process(folder: RunFolder, epochs: int | None) -> RunSource:
    def launch() -> process.ChildRun:
        return process.resume(folder, epochs)

    return ProcessRun(launch, folder)


def resumed_in_thread(folder: RunFolder, epochs: int | None) -> RunSource:
    def begin() -> Iterator[Event]:
        import_engine()
        from napari_celltrain.runs import session

        return session.resume(folder.path, epochs=epochs)

    return ThreadRun(begin, folder.path.parent, folder)


def failure(error: Exception, activity: str = "Training") -> Failed:
    """The error as an event."""
    return Failed(message=explain(error, activity), time=time.time())


def spare_cores() -> int:
    """How many processor cores to compute on while a window is open: it needs one itself."""
    process = psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
    return max(1, cores - 1)


def _keep_idle_threads_quiet() -> None:
    """libgomp's threads spin while they wait and starve the window; it reads this when torch is first loaded."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
