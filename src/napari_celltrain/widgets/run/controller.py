"""The run behind the widget: started, watched, resumed and stopped here; everything else hears of it by events.

There is one controller in a session of napari. It outlives the widget, so that training goes on when the widget is
closed, and a widget that is opened later finds it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication, QObject, Signal

from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.history import History, HistoryBuilder
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
from napari_celltrain.widgets import responsive
from napari_celltrain.widgets.field_labels import in_the_window
from napari_celltrain.widgets.preferences import remember_run
from napari_celltrain.widgets.run.sources import (
    FIRST_PAUSE,
    Batch,
    RunSource,
    WatchedRun,
    in_process,
    in_thread,
    resumed_in_process,
    resumed_in_thread,
    spare_cores,
)

State = Literal["idle", "preparing", "training", "stopping", "finished", "failed"]

_NO_REASON = "The run ended without saying why."
_PASSING = (StepDone, ValidationProgressed, Prepared)  # of no interest once they are past


class RunController(QObject):
    """Owns one run at a time. All methods are for the thread of the window, and none of them waits."""

    stateChanged = Signal()
    eventsReceived = Signal(object)
    """A tuple of events, in order. Of steps that follow one another within a second or so, only the last."""
    failed = Signal(str)
    """A sentence; it has been shown as a notification already."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._state: State = "idle"
        self._source: RunSource | None = None
        self._worker: Any = None
        self._next: tuple[RunSource, RunConfig | None, bool] | None = None
        self._waiting: process.WaitingChild | None = None
        self.config: RunConfig | None = None
        self.watching = False
        self._pause = FIRST_PAUSE
        self._stop_request: StopRequest | None = None
        self._forget()

    # --- what is known -------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def is_busy(self) -> bool:
        """Whether a run is going on, or is being read."""
        return self._state in ("preparing", "training", "stopping")

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
        """The most urgent stop asked for so far."""
        return self._stop_request

    @property
    def message(self) -> str:
        """Why the run failed; empty while it did not."""
        return self._message

    @property
    def outcome(self) -> Finished | Failed | None:
        """How the run ended; None while it goes on."""
        return self._outcome

    @property
    def events(self) -> Batch:
        """All that happened so far but single steps, for a widget that comes later."""
        return tuple(self._events)

    def history(self) -> History:
        return self._history.history()

    # --- what can be asked for -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the training process ahead, so that :meth:`start` answers at once. May be called often."""
        if self._waiting is None and not self.is_busy:
            with contextlib.suppress(RunFolderError):  # start() will say so
                self._waiting = process.prepare()

    def dismiss(self) -> None:
        """End the process that :meth:`prepare` started and nobody needed."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close()

    def start(self, config: RunConfig, own_process: bool = True) -> None:
        """Train as ``config`` says; all that goes wrong is told by events and :attr:`failed`."""
        self._refuse_if_training()
        asked, config = config, _with_a_core_left(config)
        notice: Warned | None = None
        if own_process:
            try:
                source = in_process(config, self._take_waiting())
            except RunFolderError as error:
                notice = Warned(message=f"{error} Training runs inside napari instead, and ends with it.")
                own_process = False
        if not own_process:
            self.dismiss()
            source = in_thread(config)
        self._begin(source, asked, watching=False)
        if notice is not None:
            show_warning(notice.message)
            self._receive((notice,))

    def resume(self, folder: RunFolder, epochs: int | None = None, own_process: bool = True) -> None:
        """Continue a run of which nothing is training; ``epochs`` gives it a new end."""
        self._refuse_if_training()
        self.dismiss()
        source = resumed_in_process(folder, epochs) if own_process else resumed_in_thread(folder, epochs)
        self._begin(source, _config_of(folder), watching=False)

    def watch(self, folder: RunFolder) -> None:
        """Follow a run that something else trains, or show one that has ended."""
        self._refuse_if_training()
        self._begin(WatchedRun(folder), _config_of(folder), watching=True)

    def stop(self) -> None:
        """The first time: after the next validation; the second time: now."""
        if self.is_busy:
            self.request_stop(now=self._stop_request is not None)

    def request_stop(self, now: bool) -> None:
        if self._source is None or not self.is_busy:
            return
        try:
            self._source.request_stop(now)
        except CellTrainError as error:
            show_error(str(error))
            return
        self._stop_request = "stop-now" if now else self._stop_request or "stop"
        self._state = "stopping"
        self.stateChanged.emit()

    def set_pause(self, seconds: float) -> None:
        """Of news that supersede one another, such as steps, tell the latest only so often."""
        self._pause = seconds
        if self._source is not None:
            self._source.pause = seconds

    def leave(self) -> None:
        """Listen no longer. Training goes on in its own process; inside napari, it saves its best model and ends."""
        if self._source is not None and self.is_busy:
            self._source.leave()

    # --- the worker ------------------------------------------------------------------------------------------

    def _refuse_if_training(self) -> None:
        if self.is_training:
            raise RunFolderError("A run is being trained already. Stop it first, or wait for its end.")

    def _take_waiting(self) -> process.WaitingChild:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.is_alive():
            waiting.close()
            waiting = None
        return waiting or process.prepare()

    def _begin(self, source: RunSource, config: RunConfig | None, watching: bool) -> None:
        if self._worker is not None:  # a run that is only watched: let go of it first
            self._next = (source, config, watching)
            if self._source is not None:
                self._source.leave()
            return
        self._source = source
        source.pause = self._pause
        self._forget()
        self.config, self.watching = config, watching
        self._state = "preparing"
        responsive.begin()  # also for the plot and the predictions, which threads draw and read
        self._worker = create_worker(_relay, source, _start_thread=False, _worker_class=_Worker)
        self._worker.source = source
        self._worker.yielded.connect(self._receive)
        self._worker.finished.connect(self._end)
        self._worker.start()
        if source.folder is not None and not watching:
            remember_run(source.folder.path)
        self.stateChanged.emit()

    def _forget(self) -> None:
        """Make room for what the next run will tell."""
        self.config, self.watching = None, False
        self._history = HistoryBuilder()
        self._events: list[Event] = []
        self._stop_request = None
        self._outcome: Finished | Failed | None = None
        self._last_warning = ""
        self._message = ""
        self._begun = False

    def _receive(self, batch: Batch) -> None:
        before = self._state
        for event in batch:
            self._history.add(event)
            self._note(event)
        self._events += [event for event in batch if not isinstance(event, _PASSING)]
        self.eventsReceived.emit(batch)
        if self._state != before:
            self.stateChanged.emit()

    def _note(self, event: Event) -> None:
        if isinstance(event, Started):
            self._begun, self._outcome = True, None
            if self._stop_request is None:
                self._state = "training"
            if not self.watching and self.folder is not None:
                remember_run(self.folder.path)
        elif isinstance(event, StopRequested):
            self._stop_request = "stop-now" if event.now else self._stop_request or "stop"
            self._state = "stopping"
        elif isinstance(event, Finished | Failed):
            self._outcome = event
        elif isinstance(event, Warned):
            self._last_warning = event.message

    def _end(self) -> None:
        responsive.end()
        source, self._worker = self._source, None
        outcome = self._outcome
        if self._next is not None:
            following, self._next = self._next, None
            self._begin(*following)
            return
        if source is not None and source.left:
            self._state = "idle"
        elif isinstance(outcome, Finished):
            self._state = "finished"
        elif not self._begun and self._stop_request is not None:
            self._state = "idle"
        else:
            message = outcome.message if outcome is not None else self._last_warning
            self._state, self._message = "failed", in_the_window(printable(message or _NO_REASON))
        # first the form, then the people: whatever a notification meets on its way must not leave a dead button
        self.stateChanged.emit()
        self._tell(outcome)

    def _tell(self, outcome: Finished | Failed | None) -> None:
        """Say how it ended; of a run that is only watched, and ended before, it is no news."""
        if self._state == "finished" and not self.watching and outcome is not None:
            show_info(printable(describe(outcome) or ""))
        elif self._state == "failed":
            if not (self.watching and outcome is not None):
                show_error(self._message)
            self.failed.emit(self._message)


class _Worker(GeneratorWorker):  # type: ignore[misc]  # napari is untyped
    """napari asks its workers to quit when it is closed; that must end a run in order, not drop it."""

    source: RunSource

    def quit(self) -> None:
        self.source.leave()


def _relay(source: RunSource) -> Iterator[Batch]:
    """The generator function that napari's worker runs."""
    yield from source.batches()


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
    """Training must not take the processor that the window needs, unless it was told how many to take."""
    if config.training.threads is not None:
        return config
    training = config.training.model_copy(update={"threads": spare_cores()})
    return config.model_copy(update={"training": training})
