"""Training in a process of its own, and following a run that any process writes.

The child is this program's command line. It gets its configuration by standard input and tells its events by
standard output, one JSON line each; it outlives its parent, whose requests it reads from the run folder.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from napari_celltrain.config import RunConfig
from napari_celltrain.errors import RunFolderError
from napari_celltrain.events import Event, Failed, Finished, Started, Warned
from napari_celltrain.runs.checkpoint import LAST
from napari_celltrain.runs.child import Child, close_input, spawn
from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.tail import EventTail


class WaitingChild:
    """A process that has loaded torch and waits for its configuration, so that training starts at once.

    Made ahead by :func:`prepare`; :meth:`close` ends one that is not needed.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        # At the end of its input without a configuration, the child leaves by itself.
        close_input(self.process)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class ChildRun(Child):
    """A training process and what it tells."""

    def __init__(self, process: subprocess.Popen[str], results: Path, folder: RunFolder | None = None) -> None:
        super().__init__(process)
        self._results = results
        self._folder = folder
        self._begun = False
        self._wanted: bool | None = None  # the stop asked for; True is now
        self._lock = threading.Lock()
        self.listen()

    @property
    def folder(self) -> RunFolder | None:
        """The run folder; None until training has started in it."""
        return self._folder

    def request_stop(self, now: bool) -> None:
        """Stop after the next validation, or ``now``: after the current batch, with a validation.

        Before training has begun there is nothing to keep, and the process is interrupted. Raises
        ``RunFolderError`` where the request cannot be written.
        """
        with self._lock:
            self._wanted = now or bool(self._wanted)
            if self._begun and self._folder is not None:
                self._folder.request_stop(now)
                return
        self.interrupt()

    def _note(self, event: Event) -> None:
        if not isinstance(event, Started):
            return
        with self._lock:
            self._folder = self._folder or RunFolder(self._results / event.run)
            self._begun = True
            if self._wanted is not None:
                with contextlib.suppress(RunFolderError):
                    self._folder.request_stop(self._wanted)

    def _obituary(self, code: int) -> str:
        if self._wanted is not None and not self._begun:
            return "Training was stopped before it had begun; nothing was trained."
        return self._cause(code, "The training process", self._rescue())

    def _rescue(self) -> str:
        """What is left of a run whose process died, and how to go on."""
        if self._folder is None:
            return "Training had not begun."
        if not (self._folder.path / LAST).exists():  # saved at the first validation
            return f"Nothing had been saved yet; start it again with `celltrain train {self._folder.path}`."
        return f"What it had saved is intact; continue with `celltrain resume {self._folder.path}`."


def prepare() -> WaitingChild:
    """Start a process that loads what training needs and waits. Raises ``RunFolderError`` where none can be started."""
    return WaitingChild(spawn(["train", "-", "--json"]))


def start(config: RunConfig, waiting: WaitingChild | None = None) -> ChildRun:
    """Train by ``config`` in a process of its own, or in the one that has been ``waiting`` for it."""
    process = waiting.process if waiting is not None and waiting.is_alive() else spawn(["train", "-", "--json"])
    # A process that died meanwhile cannot be written to; its events then say what it died of.
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.write(dump_config(config))
    close_input(process)
    return ChildRun(process, config.data.results)


def resume(folder: RunFolder, epochs: int | None = None, max_minutes: float | None = None) -> ChildRun:
    """Continue an interrupted or finished run in a process of its own."""
    arguments = ["resume", str(folder.path.absolute()), "--json"]
    arguments += ["--epochs", str(epochs)] if epochs is not None else []
    arguments += ["--max-minutes", str(max_minutes)] if max_minutes is not None else []
    process = spawn(arguments)
    close_input(process)
    return ChildRun(process, folder.path.parent, folder)


def watch(folder: RunFolder, poll_seconds: float = 0.2, cancelled: Callable[[], bool] | None = None) -> Iterator[Event]:
    """All events of a run, past ones first, then new ones until it ends or ``cancelled()`` turns true.

    Where its process is gone without having ended the run, the last event is a ``Warned`` that says so.
    """
    tail = EventTail(folder.events_file)
    ended, seen = False, 0
    while True:
        # Asked before reading: what a process wrote before it was gone is then read for certain.
        running = folder.is_running()
        events = tail.read_new()
        for event in events:
            ended = isinstance(event, Finished | Failed) or (ended and not isinstance(event, Started))
            yield event
        seen += len(events)
        if not running:
            break
        if cancelled is not None and cancelled():
            return
        time.sleep(poll_seconds)
    if not ended:
        yield Warned(message=_gone(folder, seen), time=time.time())


def _gone(folder: RunFolder, seen: int) -> str:
    if seen == 0:
        return f"Nothing is training in {folder.path}, and nothing has been recorded there."
    return (
        "The process that trained this run is gone; it was ended or killed before the end. What it had saved is "
        f"intact; continue with `celltrain resume {folder.path}`."
    )
