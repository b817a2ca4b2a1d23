"""The run behind the widget: started, watched, resumed and stopped here; everything else follows its events.

There is one controller in a session of napari. It outlives the widget, so that training goes on when the widget is
closed, and a widget that is opened later finds it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication, QObject, Signal

from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.history import History
from napari_celltrain.runs.process import Child
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started, StopRequest, StopRequested, Warned
from napari_celltrain.values.text import describe, printable
from napari_celltrain.widgets.preferences import remember_run
from napari_celltrain.widgets.run.sources import PASSING, ProcessRun, RunSource, ThreadRun, WatchedRun, spare_cores

State = Literal["idle", "preparing", "training", "stopping", "finished", "failed"]

_TRAIN = ("train", "-", "--json")


@dataclass(slots=True)
class _Course:
    """What the events of a run amount to."""

    has_begun: bool = False
    stop_request: StopRequest | None = None
    outcome: Finished | Failed | None = None
    warning: str = ""

    def add(self, event: Event) -> None:
        match event:
            case Started():  # a run that is resumed starts more than once
                self.has_begun, self.stop_request, self.outcome = True, None, None
            case StopRequested():
                self.stop_request = "stop-now" if event.now else self.stop_request or "stop"
            case Finished() | Failed():
                self.outcome = event
            case Warned():
                self.warning = event.message


class RunController(QObject):
    """Owns one run at a time. All methods are for the thread of the window, and none of them waits."""

    stateChanged = Signal()
    eventsReceived = Signal(object)
    """A tuple of events, in order. Of steps that follow one another within a second or so, only the last."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.config: RunConfig | None = None
        """That of the run shown, where it can be read."""
        self._source: RunSource | None = None
        self._worker: Any = None
        self._waiting: Child | None = None
        self._forget()

    @property
    def state(self) -> State:
        if self.is_busy:
            return "stopping" if self.stop_request else "training" if self._course.has_begun else "preparing"
        if self._source is None or self._source.left:
            return "idle"
        if isinstance(self.outcome, Finished):
            return "finished"
        return "idle" if self.stop_request and not self._course.has_begun else "failed"

    @property
    def is_busy(self) -> bool:
        """Whether a run is going on, or is being read."""
        return self._worker is not None

    @property
    def watching(self) -> bool:
        return isinstance(self._source, WatchedRun)

    @property
    def is_training(self) -> bool:
        """Whether a run is going on that was started here, not only watched."""
        return self.is_busy and not self.watching

    @property
    def outlives_napari(self) -> bool:
        return self._source is None or self._source.outlives_napari

    @property
    def folder(self) -> RunFolder | None:
        """The folder of the run shown; None before training has started in it."""
        return None if self._source is None else self._source.folder

    @property
    def stop_request(self) -> StopRequest | None:
        """The most urgent stop asked for so far, here or elsewhere."""
        asked = {self._course.stop_request, None if self._source is None else self._source.stop_request}
        return "stop-now" if "stop-now" in asked else "stop" if "stop" in asked else None

    @property
    def outcome(self) -> Finished | Failed | None:
        """How the run ended; None while it goes on."""
        return self._course.outcome

    @property
    def message(self) -> str:
        """Why the run failed; empty while it did not."""
        if self.state != "failed":
            return ""
        reason = self.outcome.message if isinstance(self.outcome, Failed) else self._course.warning
        return printable(reason or "The run ended without saying why.")

    @property
    def events(self) -> tuple[Event, ...]:
        """All that happened so far but single steps, for a widget that comes later."""
        return tuple(self._events)

    def history(self) -> History:
        return self._history

    def prepare(self) -> None:
        """Start the training process ahead, unless it is: it loads torch and waits, so that :meth:`start` is quick."""
        if self._waiting is None and not self.is_busy:
            with contextlib.suppress(RunFolderError):  # start() will say so
                self._waiting = Child(*_TRAIN)

    def dismiss(self) -> None:
        """End the process that :meth:`prepare` started and nobody needed."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close(patience=0)

    def start(self, config: RunConfig, own_process: bool = True) -> None:
        """Train as ``config`` says; all that goes wrong comes by events."""
        self._refuse_if_training()
        spared = config
        if config.training.threads is None:  # else the user has said how many cores to take from the window
            training = config.training.model_copy(update={"threads": spare_cores()})
            spared = config.model_copy(update={"training": training})

        def train() -> Iterator[Event]:
            from napari_celltrain.runs import session

            return session.run(spared)

        self.config = config
        self._train(ThreadRun(train, config.data.results), _TRAIN if own_process else None, dump_config(spared))

    def resume(self, folder: RunFolder, epochs: int | None = None, own_process: bool = True) -> None:
        """Continue a run of which nothing is training; ``epochs`` gives it a new end."""
        self._refuse_if_training()

        def resume() -> Iterator[Event]:
            from napari_celltrain.runs import session

            return session.resume(folder.path, epochs=epochs)

        new_end = [] if epochs is None else ["--epochs", str(epochs)]
        arguments = ("resume", str(folder.path.absolute()), "--json", *new_end)
        self._train(ThreadRun(resume, folder.path.parent, folder), arguments if own_process else None)

    def watch(self, folder: RunFolder) -> None:
        """Follow a run that something else trains, or show one that has ended."""
        self._refuse_if_training()
        self._begin(WatchedRun(folder))

    def stop(self) -> None:
        """The first time: after the next validation; the second time: now."""
        self.request_stop(now=self.stop_request is not None)

    def request_stop(self, now: bool) -> None:
        if self._source is None or not self.is_busy:
            return
        try:
            self._source.request_stop(now)
        except CellTrainError as error:
            show_error(str(error))
            return
        self.stateChanged.emit()

    def leave(self) -> None:
        """Listen no longer. Training goes on in its own process; inside napari, it saves its best model and ends."""
        if self._source is not None and self.is_busy:
            self._source.leave()

    def _refuse_if_training(self) -> None:
        if self.is_training:
            raise RunFolderError("A run is being trained already. Stop it first, or wait for its end.")

    def _train(self, inside: ThreadRun, arguments: Sequence[str] | None, text: str = "") -> None:
        """In a process with ``arguments`` that is sent ``text``; ``inside`` napari without arguments or a process."""
        if arguments != _TRAIN or (self._waiting is not None and not self._waiting.is_running()):
            self.dismiss()
        waiting, self._waiting = self._waiting, None
        try:
            child = None if arguments is None else waiting or Child(*arguments)
        except RunFolderError as error:
            self._begin(inside)
            notice = Warned(message=f"{error} Training runs inside napari instead, and ends with it.")
            show_warning(notice.message)
            self._receive(inside, (notice,))
            return
        if child is not None:
            child.send(text)
        self._begin(inside if child is None else ProcessRun(child, inside.results, inside.folder))

    def _begin(self, source: RunSource) -> None:
        self.leave()  # a run that is only watched
        self._source = source
        if source.folder is not None:
            self.config = None
            with contextlib.suppress(CellTrainError):  # what happened can be shown all the same
                self.config = source.folder.read_config()
        self._forget()
        self._worker = create_worker(source.batches, _start_thread=False)
        # napari asks its workers to quit when it is closed; that must end a run in order, not drop it
        self._worker.quit = source.leave
        self._worker.yielded.connect(partial(self._receive, source))
        self._worker.returned.connect(partial(self._end, source))
        self._worker.start()
        if source.folder is not None and not self.watching:
            remember_run(source.folder.path)
        self.stateChanged.emit()

    def _forget(self) -> None:
        """Make room for the events of the next run."""
        self._history = History()
        self._course = _Course()
        self._events: list[Event] = []

    def _receive(self, source: RunSource, batch: tuple[Event, ...]) -> None:
        if source is not self._source:  # one that was left
            return
        before = self.state
        for event in batch:
            self._history = self._history.after(event)
            self._course.add(event)
            if isinstance(event, Started) and not self.watching and self.folder is not None:
                remember_run(self.folder.path)
        self._events += [event for event in batch if not isinstance(event, PASSING)]
        self.eventsReceived.emit(batch)
        if self.state != before:
            self.stateChanged.emit()

    def _end(self, source: RunSource, returned: object) -> None:
        if source is not self._source:
            return
        self._worker = None
        # first the form, then the notification: whatever that meets on its way must not leave a dead button
        self.stateChanged.emit()
        # how a run that is only watched ended before is not shown again
        if self.state == "finished" and not self.watching and self.outcome is not None:
            show_info(printable(describe(self.outcome) or ""))
        elif self.state == "failed" and not (self.watching and self.outcome is not None):
            show_error(self.message)


def shared_controller() -> RunController:
    """The controller of this session of napari."""
    global _shared
    if _shared is None:
        _shared = RunController()
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(_shared.dismiss)
    return _shared


_shared: RunController | None = None
