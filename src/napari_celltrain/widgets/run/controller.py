"""The run behind the widget: started, watched, resumed and stopped here; everything else follows its events.

There is one controller in a session of napari. It outlives the widget, so that training goes on when the widget is
closed, and a widget that is opened later finds it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication, QObject, Signal

from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.history import History, HistoryBuilder
from napari_celltrain.runs.process import Child
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import CellTrainError, RunFolderError
from napari_celltrain.values.events import (
    Event,
    Failed,
    Finished,
    Prepared,
    Started,
    StepDone,
    StopRequest,
    StopRequested,
    ValidationProgressed,
    Warned,
)
from napari_celltrain.values.text import describe, printable
from napari_celltrain.widgets.preferences import remember_run
from napari_celltrain.widgets.run.sources import (
    Batch,
    ProcessRun,
    RunSource,
    ThreadRun,
    WatchedRun,
    spare_cores,
)

State = Literal["idle", "preparing", "training", "stopping", "finished", "failed"]

_TRAIN = ("train", "-", "--json")
_NO_REASON = "The run ended without saying why."
_PASSING = (StepDone, ValidationProgressed, Prepared)  # of no interest once they are past


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

    # --- what is known -------------------------------------------------------------------------------------

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
        return printable(reason or _NO_REASON)

    @property
    def events(self) -> Batch:
        """All that happened so far but single steps, for a widget that comes later."""
        return tuple(self._events)

    def history(self) -> History:
        return self._history.history()

    # --- what can be asked for -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the training process ahead: it loads torch and waits, so that :meth:`start` answers at once.

        May be called often.
        """
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
        spared = _with_a_core_left(config)

        def train() -> Iterator[Event]:
            from napari_celltrain.runs import session

            return session.run(spared)

        child, notice = self._child(own_process, dump_config(spared), *_TRAIN)
        results = config.data.results
        self._begin(ThreadRun(train, results) if child is None else ProcessRun(child, results), config, notice)

    def resume(self, folder: RunFolder, epochs: int | None = None, own_process: bool = True) -> None:
        """Continue a run of which nothing is training; ``epochs`` gives it a new end."""
        self._refuse_if_training()

        def resume() -> Iterator[Event]:
            from napari_celltrain.runs import session

            return session.resume(folder.path, epochs=epochs)

        new_end = [] if epochs is None else ["--epochs", str(epochs)]
        child, notice = self._child(own_process, "", "resume", str(folder.path.absolute()), "--json", *new_end)
        results = folder.path.parent
        source = ThreadRun(resume, results, folder) if child is None else ProcessRun(child, results, folder)
        self._begin(source, _config_of(folder), notice)

    def watch(self, folder: RunFolder) -> None:
        """Follow a run that something else trains, or show one that has ended."""
        self._refuse_if_training()
        self._begin(WatchedRun(folder), _config_of(folder))

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

    # --- starting ----------------------------------------------------------------------------------------------

    def _refuse_if_training(self) -> None:
        if self.is_training:
            raise RunFolderError("A run is being trained already. Stop it first, or wait for its end.")

    def _child(self, wanted: bool, text: str, *arguments: str) -> tuple[Child | None, Warned | None]:
        """A process with ``arguments`` that was sent ``text``; else, where it was ``wanted``, why there is none."""
        if not wanted or arguments != _TRAIN or (self._waiting is not None and not self._waiting.is_running()):
            self.dismiss()
        if not wanted:
            return None, None
        waiting, self._waiting = self._waiting, None
        try:
            child = waiting or Child(*arguments)
        except RunFolderError as error:
            return None, Warned(message=f"{error} Training runs inside napari instead, and ends with it.")
        child.send(text)
        return child, None

    def _begin(self, source: RunSource, config: RunConfig | None, notice: Warned | None = None) -> None:
        self.leave()  # a run that is only watched
        self._source, self.config = source, config
        self._forget()
        self._worker = create_worker(_relay, source, _start_thread=False, _worker_class=_Worker)
        self._worker.source = source
        self._worker.yielded.connect(self._receive)
        self._worker.returned.connect(self._end)
        self._worker.start()
        if source.folder is not None and not self.watching:
            remember_run(source.folder.path)
        self.stateChanged.emit()
        if notice is not None:
            show_warning(notice.message)
            self._receive((source, (notice,)))

    def _forget(self) -> None:
        """Make room for the events of the next run."""
        self._history = HistoryBuilder()
        self._course = _Course()
        self._events: list[Event] = []

    # --- following -----------------------------------------------------------------------------------------------

    def _receive(self, yielded: tuple[RunSource, Batch]) -> None:
        source, batch = yielded
        if source is not self._source:  # one that was left
            return
        before = self.state
        for event in batch:
            self._history.add(event)
            self._course.add(event)
            if isinstance(event, Started) and not self.watching and self.folder is not None:
                remember_run(self.folder.path)
        self._events += [event for event in batch if not isinstance(event, _PASSING)]
        self.eventsReceived.emit(batch)
        if self.state != before:
            self.stateChanged.emit()

    def _end(self, source: RunSource) -> None:
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


class _Worker(GeneratorWorker):  # type: ignore[misc]  # napari is untyped
    """napari asks its workers to quit when it is closed; that must end a run in order, not drop it."""

    source: RunSource

    def quit(self) -> None:
        self.source.leave()


def _relay(source: RunSource) -> Generator[tuple[RunSource, Batch], None, RunSource]:
    """The generator function that napari's worker runs."""
    for batch in source.batches():
        yield source, batch
    return source


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


def _config_of(folder: RunFolder) -> RunConfig | None:
    """None where it cannot be read: what happened can be shown all the same."""
    with contextlib.suppress(CellTrainError):
        return folder.read_config()
    return None


def _with_a_core_left(config: RunConfig) -> RunConfig:
    """Training must not take the processor that the window needs, unless the user has said how many to take."""
    if config.training.threads is not None:
        return config
    training = config.training.model_copy(update={"threads": spare_cores()})
    return config.model_copy(update={"training": training})
