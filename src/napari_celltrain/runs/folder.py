"""The run folder: its files, how they are written, the requests that other programs leave in it, and its lock.

The lock is advisory, and a crash does not leave it closed. It is a small JSON file that names the owner's process. On
the owner's computer it counts as long as that process lives, whatever happens to the clock; seen from another computer
(a cluster's shared disk) as long as the owner keeps renewing it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import Field

from napari_celltrain.io.writer import write_volume
from napari_celltrain.runs.config_file import dump_config, load_config
from napari_celltrain.values import files, outside
from napari_celltrain.values.config import Frozen, RunConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem, RunFolderError
from napari_celltrain.values.events import Event, StopRequest, from_json, to_json

RENEWAL_SECONDS = 20.0
# Several renewals may be missed, and clocks of two computers differ a little.
SILENCE_SECONDS = 120.0
_GUARD_SECONDS = 4.0


class Owner(Frozen, extra="ignore"):
    """The process that trains, as its lock names it; version 0.1 gave no ``machine``, and ``started`` as a time."""

    pid: int = Field(gt=0, lt=2**31)
    host: str = Field(max_length=255)
    machine: str = ""
    """As of ``values.files.machine``. By their names alone, two computers or containers may be taken for one."""
    started: str | float
    """As of ``values.files.start_of``."""

    @staticmethod
    def this_process() -> Owner:
        pid = os.getpid()
        started = files.start_of(pid) or ""
        return Owner(pid=pid, host=socket.gethostname(), machine=files.machine(), started=started)

    @property
    def is_here(self) -> bool:
        """Whether its number is one of ours."""
        return (self.host, self.machine) == (socket.gethostname(), files.machine())


def owner_of(path: Path, now: float | None = None) -> Owner | None:
    """The process that holds the lock ``path`` and is alive; None where there is none.

    ``now`` is the time by the clock that dates the lock, which on a shared disk is not ours.
    """
    try:
        owner = outside.read_record(path, Owner, RunFolderError)
        if owner.is_here and isinstance(owner.started, str):
            return owner if files.start_of(owner.pid) in (owner.started, "") else None
        silence = (time.time() if now is None else now) - path.stat().st_mtime
        return owner if silence < SILENCE_SECONDS else None
    except (OSError, RunFolderError):
        return None


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` (its folder is made). Raises ``RunFolderError`` where another process holds it."""
    released = threading.Event()

    def claim() -> None:
        files.write_text(path, Owner.this_process().model_dump_json())

    def renew() -> None:
        while not released.wait(RENEWAL_SECONDS):
            with contextlib.suppress(OSError):
                claim()

    with files.writing(path):
        path.parent.mkdir(exist_ok=True)
        with _alone(path.with_name("taking")) as now:
            refuse_owned(path, now)
            claim()
    renewal = threading.Thread(target=renew, name="celltrain-lock", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        released.set()
        renewal.join()
        with contextlib.suppress(OSError):
            path.unlink()


def refuse_owned(path: Path, now: float | None = None) -> None:
    """Raise ``RunFolderError`` where a living process holds the lock ``path``; ``now`` as for :func:`owner_of`."""
    if (owner := owner_of(path, now)) is not None:
        where, wait = ("", "") if owner.is_here else (f" on {owner.host}", "; two minutes, if it was killed")
        message = f"The run {path.parent.parent} is still being trained by process {owner.pid}{where}."
        remedy = f"Stop it first (`celltrain stop`), or wait for its end{wait}."
        raise RunFolderError(Problem("running", "", message, remedy))


@contextlib.contextmanager
def _alone(guard: Path) -> Iterator[float]:
    """Keep others from looking at the lock and taking it at the same moment; gives the time by the disk's clock.

    Only one can make a folder. One that stays is left by a process that was killed in these milliseconds.
    """
    began = seen_at = time.monotonic()
    seen: object = None
    while True:
        try:
            guard.mkdir()
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                found = guard.stat()
                if seen != (seen := (found.st_ino, found.st_mtime_ns)):
                    seen_at = time.monotonic()
                elif time.monotonic() - seen_at > _GUARD_SECONDS:
                    # a file browser may have left something in it
                    shutil.rmtree(guard) if guard.is_dir() else guard.unlink()
        if time.monotonic() - began > 3 * _GUARD_SECONDS:
            raise RunFolderError(f"{guard.parent.parent} is being opened by another process. Try again.")
        time.sleep(0.01)
    try:
        yield guard.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            guard.rmdir()


# --- the folder -------------------------------------------------------------------------------------------------------

_SUBFOLDERS = ("checkpoints", "previews", "validation", "model", "control")
# After these a power cut must not take back what the other files already say.
_LASTING = ("validated", "finished", "failed")


class RunFolder:
    """One run on disk. Made by :meth:`create` or :meth:`open`; all errors are ``RunFolderError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.data_file = path / "data.json"
        self.events_file = path / "events.jsonl"
        self.log_file = path / "training.log"
        self.validation = path / "validation"
        self.model = path / "model"
        self.control = path / "control"
        self._lock = self.control / "running.json"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @staticmethod
    def refuse_existing(results: Path, name: str | None) -> None:
        """Raise what :meth:`create` would, before minutes are spent on preparing the run."""
        if name is not None and os.path.lexists(results / name):
            message, remedy = f"exists already in {results}.", "Choose another run name, or continue that run."
            raise RunFolderError(Problem("run-exists", f"The run {name!r}", message, remedy, settings=("run_name",)))

    @classmethod
    def create(
        cls, results: Path, name: str | None, model: str, contents: Mapping[str, str] | None = None
    ) -> RunFolder:
        """Make a new folder in ``results``; without a ``name`` it is called by date, time and ``model``.

        It is there with the files ``contents`` or not at all, and on the disk itself. Nothing is ever overwritten: a
        ``name`` that exists is refused.
        """
        dated = f"{datetime.now():%Y-%m-%d_%H%M}_{model}"
        with files.writing(results if name is None else results / name):
            results.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(results)
            new = files.temporary(results / "new")
            try:
                for subfolder in _SUBFOLDERS:
                    (new / subfolder).mkdir(parents=True)
                for file, text in (contents or {}).items():
                    files.write_text(new / file, text)
                files.sync(new)
                for number in itertools.count(1):
                    cls.refuse_existing(results, name)
                    path = results / (name or (dated if number == 1 else f"{dated}_{number}"))
                    if name is None and os.path.lexists(path):
                        continue
                    try:
                        new.rename(path)
                        break
                    except OSError as error:
                        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was first
                            raise
            finally:
                shutil.rmtree(new, ignore_errors=True)
            files.sync(results, Path(results.anchor))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, or one of the files in it that a person may have picked instead."""
        kind = outside.kind_of(path)
        folder = cls(path.parent if kind == "file" else path)
        if kind is None:
            raise RunFolderError(f"There is no run folder {outside.shown(path)}.")
        if not {outside.kind_of(folder.config_file), outside.kind_of(folder.events_file)} - {None}:
            raise RunFolderError(
                f"{folder.path} is not a run folder: it has neither a config.yaml nor an events.jsonl."
            )
        return folder

    # --- writing -----------------------------------------------------------------------------------------------

    def write_with(self, relative: str, writer: Callable[[Path], object]) -> None:
        """Let ``writer`` fill a temporary file of the same suffix, then put it in place."""
        path = self.path / relative
        with files.writing(path):
            path.parent.mkdir(exist_ok=True)
            files.write_with(path, writer)

    def write_bytes(self, relative: str, content: bytes) -> None:
        self.write_with(relative, lambda temporary: temporary.write_bytes(content))

    def write_text(self, relative: str, content: str) -> None:
        self.write_bytes(relative, content.encode("utf-8", "backslashreplace"))

    def write_volume(self, relative: str, array_ZYX: NDArray[Any], voxel_size: Spacing | None) -> None:
        """A TIFF with its voxel size, whole or not at all."""
        try:
            write_volume(self.path / relative, array_ZYX, voxel_size)
        except DataError as error:  # the data are sound; it is the folder that cannot take them
            raise RunFolderError(*error.problems) from error

    def append_line(self, relative: str, line: str, lasting: bool = False) -> None:
        """Add one line to a growing file; ``lasting`` waits until it is on the disk itself.

        The file is closed each time: that is what makes the line visible to other computers on a network disk.
        """
        path = self.path / relative
        with files.writing(path), path.open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            if file.read(1) not in (b"", b"\n"):
                # a killed process or a full disk left an unfinished last line: the next one must be whole
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            file.flush()
            if lasting:
                os.fsync(file.fileno())

    def append_event(self, event: Event) -> None:
        self.append_line("events.jsonl", to_json(event), lasting=event.event in _LASTING)

    def write_config(self, config: RunConfig) -> None:
        self.write_text("config.yaml", dump_config(config))

    # --- reading -----------------------------------------------------------------------------------------------

    def read_events(self) -> Iterator[Event]:
        """All events so far; half-written lines and events of a newer version are left out."""
        return chain.from_iterable(takewhile(bool, new_events(self.events_file)))

    def read_config(self) -> RunConfig:
        """What the run was started with. Raises ``ConfigError`` that names the file and the fields that are wrong."""
        config = load_config(self.config_file)
        if "limit_outliers" in config.data.model_fields_set:
            return config
        # begun by version 0.1.0, which did not
        return config.model_copy(update={"data": config.data.model_copy(update={"limit_outliers": False})})

    # --- control -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """``with folder.lock():`` around training keeps every other process from training here too.

        Entering it raises ``RunFolderError`` where another process holds it; a lock of a dead process is taken. What
        that one left half written, and requests to stop it, are removed; a link out of the folder is not followed.
        """
        within = [
            path for name in ("", *_SUBFOLDERS) if (path := self.path / name).resolve() == self.path.resolve() / name
        ]
        if os.path.lexists(self.control) and self.control not in within:
            raise RunFolderError(f"{self.control} is a link to another folder. Put an empty folder in its place.")
        with run_lock(self._lock):
            for folder in within:
                files.remove_leftovers(folder, of_others=True)
            for request in ("stop", "stop-now"):
                with contextlib.suppress(OSError):  # a folder of that name is no request
                    (self.control / request).unlink(missing_ok=True)
            yield

    def refuse_running(self) -> None:
        """Raise what :meth:`lock` would, before anything slow is loaded for it."""
        refuse_owned(self._lock)

    def is_running(self) -> bool:
        """Whether a process, here or on another computer, is training in this folder."""
        return owner_of(self._lock) is not None

    def request_stop(self, now: bool) -> None:
        """Ask the training process to end after its next validation, or (``now``) after the current batch."""
        path = self.control / ("stop-now" if now else "stop")
        with files.writing(path):
            self.control.mkdir(exist_ok=True)
            path.touch()

    def stop_request(self) -> StopRequest | None:
        """The most urgent request in the folder; cheap enough to ask at every step."""
        try:
            requests = {entry.name for entry in os.scandir(self.control) if entry.is_file(follow_symlinks=False)}
        except OSError:
            return None
        return "stop-now" if "stop-now" in requests else "stop" if "stop" in requests else None


MAX_LINE_BYTES = 1 << 22
"""Of an event: a validation of ten thousand volumes is shorter."""
MAX_SKIPPED_BYTES = 1 << 28
"""Of a line that is no event; a disk may be full of zeros where a file was."""


def new_events(path: Path) -> Iterator[list[Event]]:
    """The events of a file, which another process may be writing at this moment: at each step some that are new, and
    none once all that is there has been read.

    The file is read in pieces, and once. Only whole lines count, so an event that is half written is left for the next
    step. Lines that are no event that we know are passed over: they are from a newer version, or damage of a power
    cut. Raises ``RunFolderError`` where the file exists but cannot be read.
    """
    offset = skipped = 0
    while True:
        events: list[Event] = []
        piece = _piece(path, offset)
        length = piece.rfind(b"\n") + 1
        if not length and len(piece) == MAX_LINE_BYTES:
            length = len(piece)
            skipped += length
            if skipped > MAX_SKIPPED_BYTES:
                raise RunFolderError(f"{path} is damaged: one of its lines does not end. Move it away, and try again.")
        elif length:
            for line in piece[:length].splitlines()[bool(skipped) :]:
                with contextlib.suppress(ValueError):
                    events.append(from_json(line))
            skipped = 0
        offset += length
        if events or not length:
            yield events


def _piece(path: Path, offset: int) -> bytes:
    if outside.kind_of(path) is None:  # not there yet
        return b""
    with outside.open_file(path, RunFolderError) as file:
        try:
            file.seek(offset)
            return file.read(MAX_LINE_BYTES)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror or error}.") from error
