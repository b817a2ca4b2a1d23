"""Making a process yield the processor to the windows of the desktop.

This program's command line as a child process that tells its events by standard output, one JSON line each.

Training in a process of its own, and following a run that any process writes.

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

from napari_celltrain.runs.checkpoint import has_checkpoint
from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import EventTail, RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started, Warned, from_json

NICENESS = 10
SESSION_NICENESS = 5
"""A third of what others get who want all they can; with 10 a busy machine would leave training a tenth."""
_PATIENCE = 0.15  # seconds; Linux takes one such wish in a tenth of a second, from all processes together


def step_back(pid: int) -> None:
    """Give the process ``pid``, which leads a session of its own, less of the processor than windows have.

    To be called before it starts threads, which inherit its priority. Where the system refuses, it keeps what it has.
    """
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if hasattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS"):  # Windows
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(max(NICENESS, process.nice()))  # never raise one that has stepped back further
    _step_back_as_session(pid)


def _step_back_as_session(pid: int) -> None:
    """Linux shares the processor out by sessions first, each with a priority of its own (sched(7), "autogroup").

    Of a process that leads a session, its own priority counts among the threads of that session only.
    """
    place = Path(f"/proc/{pid}/autogroup")
    for _ in range(2):
        try:
            place.write_text(str(SESSION_NICENESS), encoding="ascii")
            return
        except BlockingIOError:  # another process was first
            time.sleep(_PATIENCE)
        except OSError:  # another system, or a kernel without it
            return


# --- child -----------------------------------------------------------------------------------------------

_TAIL_LINES = 20


class Child:
    """A process and what it tells."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=_TAIL_LINES)
        # Both pipes are emptied whether or not anybody asks for events: a full one would bring the work to a halt.
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read, self._read_errors)]

    def listen(self) -> None:
        """Begin to read, once a subclass is ready for :meth:`_note`."""
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def events(self) -> Iterator[Event]:
        """What happens, as it happens; where the process ends without an end of its own, the last is ``Failed``.

        To be iterated once.
        """
        ended = False
        while (event := self._events.get()) is not None:
            ended = ended or isinstance(event, Finished | Failed)
            yield event
        code = self._process.wait()
        self._readers[1].join(timeout=2)
        if not ended and not self._is_end(code):
            yield Failed(message=self._obituary(code), time=time.time())

    def interrupt(self) -> None:
        """As Ctrl-C would."""
        try:
            if os.name == "nt":
                self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            else:
                self._process.send_signal(signal.SIGINT)
        except OSError:  # a window without a console cannot send it
            self._process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def _note(self, event: Event) -> None:
        """Called in the reading thread with each event, before anyone else hears of it."""

    def _is_end(self, code: int) -> bool:
        """Whether the process may end with exit code ``code`` without an event that says so."""
        return False

    def _obituary(self, code: int) -> str:
        """Why the process ended without saying so itself."""
        return self._cause(code, "The process")

    def _cause(self, code: int, what: str, rescue: str = "") -> str:
        """What became of the process, called ``what``, and ``rescue``: what is left of its work."""
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                memory = " (often because the computer ran out of memory)" if name == "SIGKILL" else ""
                return f"{what} was ended by signal {-code}, {name}{memory}. {rescue}".strip()
        tail = "\n".join(line for line in self._errors if line.strip())
        return f"{what} ended with exit code {code}. {rescue}".strip() + (f"\n{tail}" if tail else "")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                try:
                    event = from_json(line)
                except ValueError:
                    self._errors.append(line.rstrip())  # some library printed to standard output
                    continue
                self._note(event)
                self._events.put(event)
        self._events.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._errors.append(line.rstrip())


def spawn(arguments: list[str]) -> subprocess.Popen[str]:
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
        raise RunFolderError(f"A process could not be started: {error.strerror or error}.") from error
    step_back(process.pid)
    return process


def close_input(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


# --- process ---------------------------------------------------------------------------------------------


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
        if not has_checkpoint(self._folder):  # saved at the first validation
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
