"""Reading an ``events.jsonl`` that another process may be writing at this moment.

The run folder: its files, how they are written, and the requests laid into it from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_celltrain.io.volumes import write_volume
from napari_celltrain.runs.config_file import dump_config, load_config
from napari_celltrain.runs.lock import RunLock, owner_of
from napari_celltrain.values import files
from napari_celltrain.values.config import RunConfig, Spacing
from napari_celltrain.values.errors import DataError, RunFolderError
from napari_celltrain.values.events import Event, StopRequest, from_json, to_json


class EventTail:
    """The events of one file; each call of :meth:`read_new` gives those added since the last one.

    Only whole lines count, so an event that is half written is left for the next call. Lines that are no
    event that we know are passed over: they are from a newer version, or damage of a power cut.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Event]:
        """Raises ``RunFolderError`` where the file exists but cannot be read."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := _parse(line)) is not None]


def _parse(line: bytes) -> Event | None:
    try:
        return from_json(line)
    except ValueError:
        return None


# --- folder ----------------------------------------------------------------------------------------------

_SUBFOLDERS = ("checkpoints", "previews", "validation", "model", "control")
# After these a power cut must not take back what the other files already say.
_LASTING = ("validated", "finished", "failed")


class RunFolder:
    """One run on disk. Made by :meth:`create` or :meth:`open`; all errors are ``RunFolderError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: set[str] = set()  # growing files whose last line is known to be complete

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, results: Path, name: str | None, model: str) -> RunFolder:
        """Make a new folder in ``results``; without a ``name`` it is called by date, time and ``model``.

        Nothing is ever overwritten: a ``name`` that exists is refused.
        """
        try:
            results.mkdir(parents=True, exist_ok=True)
            path = _make(results / name) if name is not None else _make_dated(results, model)
        except OSError as error:
            raise files.refusal(results if name is None else results / name, error) from error
        if path is None:
            raise _exists(results, name)
        try:
            for subfolder in _SUBFOLDERS:
                (path / subfolder).mkdir()
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise files.refusal(path, error) from error
        return cls(path)

    @staticmethod
    def refuse_existing(results: Path, name: str | None) -> None:
        """Raise what :meth:`create` would, before minutes are spent on preparing the run."""
        if name is not None and (results / name).exists():
            raise _exists(results, name)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, or one of the files in it that a person may have picked instead."""
        if path.is_file():
            path = path.parent
        if not path.exists():
            raise RunFolderError(f"There is no run folder {path}.")
        if not (path / "config.yaml").exists() and not (path / "events.jsonl").exists():
            raise RunFolderError(f"{path} is not a run folder: it has neither a config.yaml nor an events.jsonl.")
        return cls(path)

    # --- where things are ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def log_file(self) -> Path:
        return self.path / "training.log"

    @property
    def plot_file(self) -> Path:
        return self.path / "training.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def validation(self) -> Path:
        return self.path / "validation"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def control(self) -> Path:
        return self.path / "control"

    # --- writing -------------------------------------------------------------------------------------------

    def write_with(self, relative: str, writer: Callable[[Path], None]) -> Path:
        """Let ``writer`` fill a temporary file of the same suffix, then put it in place; gives its path."""
        path = self.path / relative
        try:
            path.parent.mkdir(exist_ok=True)
            files.write_with(path, writer)
        except OSError as error:
            raise files.refusal(path, error) from error
        return path

    def write_bytes(self, relative: str, content: bytes) -> Path:
        def write(temporary: Path) -> None:
            temporary.write_bytes(content)

        return self.write_with(relative, write)

    def write_text(self, relative: str, content: str) -> Path:
        return self.write_bytes(relative, content.encode("utf-8", "backslashreplace"))

    def write_volume(self, relative: str, array_ZYX: NDArray[Any], voxel_size: Spacing | None) -> None:
        """A TIFF with its voxel size, whole or not at all."""
        try:
            write_volume(self.path / relative, array_ZYX, voxel_size)
        except DataError as error:  # the data are sound; it is the folder that cannot take them
            raise RunFolderError(str(error)) from error

    def append_line(self, relative: str, line: str, lasting: bool = False) -> None:
        """Add one line to a growing file; ``lasting`` waits until it is on the disk itself.

        The file is closed each time: that is what makes the line visible to other computers on a network disk.
        """
        path = self.path / relative
        try:
            if relative not in self._whole:
                _trim_torn_line(path)
                self._whole.add(relative)
            with path.open("ab") as file:
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
        except OSError as error:
            self._whole.discard(relative)  # a full disk may have taken half of the line
            raise files.refusal(path, error) from error

    def append_event(self, event: Event) -> None:
        self.append_line("events.jsonl", to_json(event), lasting=event.event in _LASTING)

    def write_config(self, config: RunConfig) -> None:
        self.write_text("config.yaml", dump_config(config))

    # --- reading -------------------------------------------------------------------------------------------

    def read_events(self) -> list[Event]:
        """All events so far; half-written lines and events of a newer version are left out."""
        return EventTail(self.events_file).read_new()

    def read_config(self) -> RunConfig:
        """Raises ``ConfigError`` that names the file and the fields that are wrong."""
        return load_config(self.config_file)

    # --- control -------------------------------------------------------------------------------------------

    def lock(self) -> RunLock:
        """``with folder.lock():`` around training keeps every other process from training here too.

        Entering it raises ``RunFolderError`` where another process holds it; a lock of a dead process is taken.
        Temporary files that the dead one left behind are removed by :meth:`clean`.
        """
        self._make_control()
        return RunLock(self.control / "running.json")

    def is_running(self) -> bool:
        """Whether a process, here or on another computer, is training in this folder."""
        return owner_of(self.control / "running.json") is not None

    def clean(self) -> None:
        """Remove what a killed process left half written. Only for whoever holds the lock."""
        for folder in (self.path, *(self.path / name for name in _SUBFOLDERS)):
            files.remove_leftovers(folder)

    def request_stop(self, now: bool) -> None:
        """Ask the training process to end after its next validation, or (``now``) after the current batch."""
        path = self.control / ("stop-now" if now else "stop")
        self._make_control()
        try:
            path.touch()
        except OSError as error:
            raise files.refusal(path, error) from error

    def stop_request(self) -> StopRequest | None:
        """The most urgent request that lies in the folder; cheap enough to ask at every step."""
        try:
            requests = {entry.name for entry in self.control.iterdir()}
        except OSError:
            return None
        return "stop-now" if "stop-now" in requests else "stop" if "stop" in requests else None

    def clear_requests(self) -> None:
        for request in ("stop", "stop-now"):
            with contextlib.suppress(FileNotFoundError):
                (self.control / request).unlink()

    def _make_control(self) -> None:
        try:
            self.control.mkdir(exist_ok=True)
        except OSError as error:
            raise files.refusal(self.control, error) from error


def _exists(results: Path, name: str | None) -> RunFolderError:
    return RunFolderError(
        f"The run {name!r} exists already in {results}. Choose another run name, or continue that run with "
        "`celltrain resume`."
    )


def _make(path: Path) -> Path | None:
    """The new folder; None where something of that name exists."""
    try:
        path.mkdir()
    except FileExistsError:
        return None
    return path


def _make_dated(results: Path, model: str) -> Path:
    base = f"{datetime.now():%Y-%m-%d_%H%M}_{model}"
    path, number = _make(results / base), 2
    while path is None:
        path, number = _make(results / f"{base}_{number}"), number + 1
    return path


def _trim_torn_line(path: Path) -> None:
    """Cut off an unfinished last line, which a killed process or a full disk left, so that the next one is whole."""
    try:
        with path.open("r+b") as file:
            end = position = file.seek(0, os.SEEK_END)
            while position > 0:
                start = max(0, position - 4096)
                file.seek(start)
                newline = file.read(position - start).rfind(b"\n")
                if newline >= 0:
                    position = start + newline + 1
                    break
                position = start
            if position < end:
                file.truncate(position)
    except FileNotFoundError:
        return
