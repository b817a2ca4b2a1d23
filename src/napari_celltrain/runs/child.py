"""This program's command line as a child process that tells its events by standard output, one JSON line each."""

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
from collections.abc import Iterator

from napari_celltrain.errors import RunFolderError
from napari_celltrain.events import Event, Failed, Finished, from_json
from napari_celltrain.runs.priority import step_back

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
