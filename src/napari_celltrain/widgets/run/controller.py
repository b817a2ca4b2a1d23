"""The run behind the widget: started, watched, resumed and stopped here; everything else follows its events.

There is one controller in a session of napari. It outlives the widget, so that training goes on when the widget is
closed, and a widget that is opened later finds it again.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
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
            return "stopping" if self.stop_request else "training" if self._has_begun else "preparing"
        if self._source is None or self._source.left:
            return "idle"
        if isinstance(self.outcome, Finished):
            return "finished"
        return "idle" if self.stop_request and not self._has_begun else "failed"

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
        asked = {self._stop_requested, None if self._source is None else self._source.stop_request}
        return "stop-now" if "stop-now" in asked else "stop" if "stop" in asked else None

    @property
    def message(self) -> str:
        """Why the run failed; empty while it did not."""
        if self.state != "failed":
            return ""
        reason = self.outcome.message if isinstance(self.outcome, Failed) else self._warning
        return printable(reason or "The run ended without saying why.")

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
        threads = config.training.threads or spare_cores()  # the user may take all from the window
        training = config.training.model_copy(update={"threads": threads})
        spared = config.model_copy(update={"training": training})
        self.config = config
        inside = ThreadRun(lambda: _session().run(spared), config.data.results)
        self._train(inside, _TRAIN if own_process else None, dump_config(spared))

    def resume(self, folder: RunFolder, epochs: int | None = None, own_process: bool = True) -> None:
        """Continue a run of which nothing is training; ``epochs`` gives it a new end."""
        self._refuse_if_training()
        inside = ThreadRun(lambda: _session().resume(folder.path, epochs=epochs), folder.path.parent, folder)
        new_end = [] if epochs is None else ["--epochs", str(epochs)]
        arguments = ("resume", str(folder.path.absolute()), "--json", *new_end)
        self._train(inside, arguments if own_process else None)

    def watch(self, folder: RunFolder) -> None:
        """Follow a run that something else trains, or show one that has ended."""
        self._refuse_if_training()
        self._begin(WatchedRun(folder))

    def stop(self) -> None:
        """The first time: after the next validation; the second time: now."""
        self.request_stop(now=self.stop_request is not None)

    def request_stop(self, now: bool) -> None:
        if self._source is not None and self.is_busy:
            with errors_shown():
                self._source.request_stop(now)
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
        self.stateChanged.emit()

    def _forget(self) -> None:
        """Make room for the events of the next run."""
        self._history = History()
        self.events: tuple[Event, ...] = ()
        """All that happened so far but single steps, for a widget that comes later."""
        self._has_begun = False
        self._stop_requested: StopRequest | None = None  # as the run itself has noted it
        self._warning = ""
        self.outcome: Finished | Failed | None = None
        """How the run ended; None while it goes on."""

    def _receive(self, source: RunSource, batch: tuple[Event, ...]) -> None:
        if source is not self._source:  # one that was left
            return
        before = self.state
        for event in batch:
            self._history = self._history.after(event)
            match event:
                case Started():  # a run that is resumed starts more than once
                    self._has_begun, self._stop_requested, self.outcome = True, None, None
                    if self.folder is not None and not self.watching:
                        remember_run(self.folder.path)
                case StopRequested():
                    self._stop_requested = "stop-now" if event.now else self._stop_requested or "stop"
                case Finished() | Failed():
                    self.outcome = event
                case Warned():
                    self._warning = event.message
        self.events += tuple(event for event in batch if not isinstance(event, PASSING))
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


@cache
def shared_controller() -> RunController:
    """The controller of this session of napari."""
    controller = RunController()
    if (application := QCoreApplication.instance()) is not None:
        application.aboutToQuit.connect(controller.dismiss)
    return controller


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show what the user can fix as a notification of napari."""
    try:
        yield
    except CellTrainError as error:
        show_error(str(error))


def _session() -> Any:
    """Imported as late as here: it brings torch."""
    return importlib.import_module("napari_celltrain.runs.session")
