"""Training in a process of its own, and following a run that any process writes.

The child is this program's command line. It gets its configuration by standard input and tells its events by
standard output, one JSON line each; it outlives its parent, whose requests it reads from the run folder.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from napari_celltrain.config import RunConfig
from napari_celltrain.errors import RunFolderError
from napari_celltrain.events import Event, Failed, Finished, Started, Warned, from_json
from napari_celltrain.runs.checkpoint import LAST
from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.tail import EventTail

_TAIL_LINES = 20


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
        _close_input(self.process)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class ChildRun:
    """A training process and what it tells."""

    def __init__(self, process: subprocess.Popen[str], results: Path, folder: RunFolder | None = None) -> None:
        self._process = process
        self._results = results
        self._folder = folder
        self._begun = False
        self._wanted: bool | None = None  # the stop asked for; True is now
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=_TAIL_LINES)
        # Both pipes are emptied whether or not anybody asks for events: a full one would bring training to a halt.
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def folder(self) -> RunFolder | None:
        """The run folder; None until training has started in it."""
        return self._folder

    def events(self) -> Iterator[Event]:
        """What happens, as it happens; ends with ``Finished`` or ``Failed``, also when the process is killed.

        To be iterated once.
        """
        ended = False
        while (event := self._events.get()) is not None:
            ended = ended or isinstance(event, Finished | Failed)
            yield event
        code = self._process.wait()
        self._readers[1].join(timeout=2)
        if not ended:
            yield Failed(message=self._obituary(code), time=time.time())

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
        self._interrupt()

    def kill(self) -> None:
        """End the process at once. What it has saved stays intact and can be resumed."""
        self._process.kill()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                try:
                    event = from_json(line)
                except ValueError:
                    self._errors.append(line.rstrip())  # some library printed to standard output
                    continue
                if isinstance(event, Started):
                    self._enter_folder(event)
                self._events.put(event)
        self._events.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._errors.append(line.rstrip())

    def _enter_folder(self, started: Started) -> None:
        with self._lock:
            self._folder = self._folder or RunFolder(self._results / started.run)
            self._begun = True
            if self._wanted is not None:
                with contextlib.suppress(RunFolderError):
                    self._folder.request_stop(self._wanted)

    def _interrupt(self) -> None:
        try:
            if os.name == "nt":
                self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            else:
                self._process.send_signal(signal.SIGINT)
        except OSError:  # a window without a console cannot send it
            self._process.terminate()

    def _obituary(self, code: int) -> str:
        """Why the process ended without saying so itself."""
        if self._wanted is not None and not self._begun:
            return "Training was stopped before it had begun; nothing was trained."
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                memory = " (often because the computer ran out of memory)" if name == "SIGKILL" else ""
                return f"The training process was ended by signal {-code}, {name}{memory}. {self._rescue()}"
        tail = "\n".join(line for line in self._errors if line.strip())
        return f"The training process ended with exit code {code}. {self._rescue()}" + (f"\n{tail}" if tail else "")

    def _rescue(self) -> str:
        if self._folder is None:
            return "Training had not begun."
        if not (self._folder.path / LAST).exists():  # saved at the first validation
            return f"Nothing had been saved yet; start it again with `celltrain train {self._folder.path}`."
        return f"What it had saved is intact; continue with `celltrain resume {self._folder.path}`."


def prepare() -> WaitingChild:
    """Start a process that loads what training needs and waits. Raises ``RunFolderError`` where none can be started."""
    return WaitingChild(_spawn(["train", "-", "--json"]))


def start(config: RunConfig, waiting: WaitingChild | None = None) -> ChildRun:
    """Train by ``config`` in a process of its own, or in the one that has been ``waiting`` for it."""
    process = waiting.process if waiting is not None and waiting.is_alive() else _spawn(["train", "-", "--json"])
    # A process that died meanwhile cannot be written to; its events then say what it died of.
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.write(dump_config(config))
    _close_input(process)
    return ChildRun(process, config.data.results)


def resume(folder: RunFolder, epochs: int | None = None, max_minutes: float | None = None) -> ChildRun:
    """Continue an interrupted or finished run in a process of its own."""
    arguments = ["resume", str(folder.path.absolute()), "--json"]
    arguments += ["--epochs", str(epochs)] if epochs is not None else []
    arguments += ["--max-minutes", str(max_minutes)] if max_minutes is not None else []
    process = _spawn(arguments)
    _close_input(process)
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


def _spawn(arguments: list[str]) -> subprocess.Popen[str]:
    """A child that yields the processor to windows and is out of reach of the terminal's Ctrl-C."""
    environment = os.environ | {
        # libgomp's threads spin while they wait and starve everything else on a busy desktop.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        process = subprocess.Popen(
            # -P: a file called torch.py in the current folder must not be taken for torch.
            [sys.executable, "-P", "-m", "napari_celltrain", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            | getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise RunFolderError(f"A process for training could not be started: {error.strerror or error}.") from error
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process(process.pid).nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 10))
    return process


def _close_input(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
