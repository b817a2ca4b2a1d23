"""Who is training in a run folder: an advisory lock that a crash does not leave closed.

The lock is a small JSON file with the owner's process. On the owner's computer it counts as long as that process
lives; seen from another computer (a cluster's shared disk) as long as the owner keeps renewing its time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from napari_celltrain.values import files
from napari_celltrain.values.errors import RunFolderError

RENEWAL_SECONDS = 20.0
# Several renewals may be missed, and clocks of two computers differ a little.
SILENCE_SECONDS = 120.0
_GUARD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that trains; ``started`` is its own start, which tells it from a later one of equal number."""

    pid: int
    host: str
    started: float

    @staticmethod
    def this_process() -> Owner:
        return Owner(os.getpid(), socket.gethostname(), psutil.Process().create_time())


def owner_of(path: Path) -> Owner | None:
    """Whoever holds the lock ``path`` and is alive; None where nobody does."""
    owner = _read(path)
    return owner if owner is not None and _is_alive(owner, path) else None


class RunLock:
    """Held from ``with`` to its end. Entering raises ``RunFolderError`` where somebody else holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released = threading.Event()

    def __enter__(self) -> RunLock:
        with _alone(self._path.with_name("taking")):
            owner = owner_of(self._path)
            if owner is not None:
                raise RunFolderError(_held_by(owner, self._path))
            try:
                files.write_text(self._path, json.dumps(asdict(Owner.this_process())))
            except OSError as error:
                raise files.refusal(self._path, error) from error
        threading.Thread(target=self._renew, name="celltrain-lock", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)


@contextlib.contextmanager
def _alone(guard: Path) -> Iterator[None]:
    """Keep others from looking at the lock and taking it at the same moment. A folder is made by one only."""
    deadline = time.monotonic() + 2 * _GUARD_SECONDS
    while True:
        try:
            guard.mkdir()
            break
        except FileExistsError:
            with contextlib.suppress(OSError):  # a process killed in these milliseconds leaves it behind
                if abs(time.time() - guard.stat().st_mtime) > _GUARD_SECONDS:
                    guard.rmdir()
        except OSError as error:
            raise files.refusal(guard, error) from error
        if time.monotonic() > deadline:
            raise RunFolderError(f"{guard.parent.parent} is being opened by another process. Try again.")
        time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            guard.rmdir()


def _read(path: Path) -> Owner | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(int(content["pid"]), str(content["host"]), float(content["started"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_alive(owner: Owner, path: Path) -> bool:
    if owner.host != socket.gethostname():
        try:
            return time.time() - path.stat().st_mtime < SILENCE_SECONDS
        except OSError:
            return False
    try:
        process = psutil.Process(owner.pid)
        # A zombie has ended; only its parent has not asked yet.
        return bool(abs(process.create_time() - owner.started) < 2 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _held_by(owner: Owner, path: Path) -> str:
    where = "" if owner.host == socket.gethostname() else f" on {owner.host}"
    return (
        f"The run {path.parent.parent} is still being trained by process {owner.pid}{where}. "
        "Stop it first (`celltrain stop`), or wait for its end."
    )
