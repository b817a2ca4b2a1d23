"""This program's command line as a process of its own, and the events of a run, whichever process writes them.

The process gets its configuration by standard input and writes its events to a file that its parent names, one JSON
line each. It outlives its parent. :func:`follow` reads such a file and the ``events.jsonl`` of a run folder alike.
Segmenting files goes the same way: a process that runs out of memory leaves the window alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import psutil

from napari_celltrain.runs.folder import RunFolder, new_events
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started, Warned

NICENESS = 10
SESSION_NICENESS = 5
"""A third of what others get who want all they can; with 10 a busy machine would leave training a tenth."""
_AUTOGROUP_PAUSE = 0.15  # seconds; Linux accepts one such request in a tenth of a second, from all processes together
_PATIENCE = 1.5  # seconds that a process has to leave
_LOOK_SECONDS = 0.1
_TAIL_LINES = 20


class Child:
    """A process of ``celltrain`` with ``arguments``, which yields the processor to windows.

    It is out of reach of the terminal's Ctrl-C. Raises ``RunFolderError`` where it cannot be started.
    """

    def __init__(self, *arguments: str) -> None:
        environment = os.environ | {
            # libgomp's threads spin while they wait and starve everything else on a busy desktop.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",
        }
        try:
            place = Path(tempfile.mkdtemp(prefix="celltrain-"))
            weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
            self.events_file = place / "events.jsonl"
            self._errors_file = place / "errors.txt"
            with self.events_file.open("wb") as events, self._errors_file.open("wb") as errors:
                self._process = subprocess.Popen(
                    # -P: a file called torch.py in the current folder must not be taken for torch.
                    [sys.executable, "-P", "-m", "napari_celltrain", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=events,
                    stderr=errors,
                    encoding="utf-8",
                    errors="replace",
                    env=environment,
                    start_new_session=os.name != "nt",
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
                    | getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            raise RunFolderError(f"A process could not be started: {error.strerror or error}.") from error
        step_back(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def is_running(self) -> bool:
        return self.exit_code is None

    def send(self, text: str = "") -> None:
        """Write all of its standard input; where it has died meanwhile, its exit message says why."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin:
            self._process.stdin.write(text)

    def terminate(self) -> None:
        """End it: at once, but where training has begun after the current batch (on Windows always at once)."""
        self._process.terminate()

    def close(self, patience: float = _PATIENCE) -> None:
        """End it, by force where it is still there after ``patience`` seconds. What it had written stays whole."""
        self.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def exit_message(self, what: str, rescue: str) -> str:
        """How the process, called ``what``, ended; ``rescue`` says what is left of its work."""
        code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                memory = " (often because the computer ran out of memory)" if name == "SIGKILL" else ""
                return f"{what} was ended by signal {-code}, {name}{memory}. {rescue}"
        tail: list[str] = []
        with contextlib.suppress(OSError):
            lines = self._errors_file.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = [line for line in lines if line.strip()][-_TAIL_LINES:]
        return "\n".join([f"{what} ended with exit code {code}. {rescue}", *tail])


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
    # Linux shares the processor out by sessions first, each with a priority of its own (sched(7), "autogroup"). The
    # priority of a process counts among the threads of its session only.
    for _ in range(2):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(SESSION_NICENESS), encoding="ascii")
            return
        except BlockingIOError:  # another process was first
            time.sleep(_AUTOGROUP_PAUSE)
        except OSError:  # another system, or a kernel without it
            return


def follow(
    source: Child | RunFolder,
    last_word: Callable[[], Event | None],
    cancelled: Callable[[], bool] = lambda: False,
    poll_seconds: float = _LOOK_SECONDS,
) -> Iterator[list[Event]]:
    """Look for new events over and over, until the process has ended or ``cancelled()`` is true; yield each look.

    Past events come first, in pieces; a look may find none. Where the process is gone without one that ends the run,
    ``last_word`` gives the last event.
    """
    looks = new_events(source.events_file)
    ended = False
    while True:
        # Asked before reading: what a process wrote before it was gone is then read for certain.
        running = source.is_running()
        events = next(looks)
        for event in events:
            ended = isinstance(event, Finished | Failed) or (ended and not isinstance(event, Started))
        yield events
        if cancelled() or not (events or running):
            break
        if not events:
            time.sleep(poll_seconds)
    last = None if running or ended or events else last_word()
    if last is not None:
        yield [last]


def watch(folder: RunFolder, poll_seconds: float = _LOOK_SECONDS) -> Iterator[Event]:
    """All events of a run until it ends; the last is a ``Warned`` where its process is gone without having ended it."""

    last_word = partial(gone, folder, f"`celltrain resume {folder.path}`")
    return chain.from_iterable(follow(folder, last_word, poll_seconds=poll_seconds))


def gone(folder: RunFolder, resume: str) -> Warned:
    """For a run that nothing trains any more; ``resume`` names the way to continue it."""
    if next(folder.read_events(), None) is None:
        message = f"Nothing is training in {folder.path}, and nothing has been recorded there."
    else:
        message = (
            "The process that trained this run is gone; it was ended or killed before the end. What it had saved is "
            f"intact; continue with {resume}."
        )
    return Warned(message=message, time=time.time())


# --- segmenting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """The arguments of ``celltrain predict``; None leaves an option to the model or the files."""

    model: Path
    inputs: tuple[Path, ...]
    output: Path
    device: str = "auto"
    probabilities: bool = False
    resample: bool = False
    threshold: float | None = None
    decoding: ObjectDecoding | None = None
    axes: str | None = None
    channel: int | None = None
    voxel_size: Spacing | None = None

    def arguments(self) -> list[str]:
        """For the command line."""
        given = ["predict", str(self.model), *map(str, self.inputs), "--output", str(self.output), "--json"]
        values: dict[str, object] = {
            "--probabilities": self.probabilities,
            "--resample": self.resample,
            "--device": self.device,
            "--threshold": self.threshold,
            "--axes": self.axes,
            "--channel": self.channel,
            "--voxel-size": self.voxel_size,
        }
        if self.decoding is not None:
            values["--method"] = self.decoding.method
            values["--smoothing"] = self.decoding.smoothing_um
            values["--seed-distance"] = self.decoding.seed_distance_um
            values["--seed-level"] = self.decoding.seed_level
            values["--min-size"] = self.decoding.min_size_um3
        for option, value in values.items():
            if value is True:
                given.append(option)
            elif value is not None and value is not False:
                parts = value if isinstance(value, tuple) else (value,)
                given += [option, ",".join(f"{part:.9g}" if isinstance(part, float) else str(part) for part in parts)]
        return given


def segment_in_process(request: PredictRequest, cancelled: Callable[[], bool]) -> Iterator[Event]:
    """Segment as ``request`` says, until it is done or ``cancelled()`` is true: a look at it takes a tenth of a second.

    Raises ``RunFolderError`` where no process can be started; the last event is ``Failed`` where it ended by an error.
    """
    child = Child(*request.arguments())
    child.send()

    def last_word() -> Event | None:
        if child.exit_code == 0:
            return None
        rescue = "The files that it had finished are intact."
        return Failed(message=child.exit_message("The process that segments", rescue), time=time.time())

    try:
        yield from chain.from_iterable(follow(child, last_word, cancelled))
    finally:
        child.close()
