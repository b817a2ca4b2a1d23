"""Who is training in a run folder: an advisory lock that a crash does not leave closed.

The lock is a small JSON file that names the owner's process. On the owner's computer it counts as long as that process
lives; seen from another computer (a cluster's shared disk) as long as the owner keeps renewing it.
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

import psutil

from napari_celltrain.values import files
from napari_celltrain.values.errors import Problem, RunFolderError

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
    """The process that holds the lock ``path`` and is alive; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        owner = Owner(int(content["pid"]), str(content["host"]), float(content["started"]))
        return owner if _is_alive(owner, path.stat().st_mtime) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` (its folder is made). Raises ``RunFolderError`` where another process holds it."""
    with files.writing(path):
        path.parent.mkdir(exist_ok=True)
        with _alone(path.with_name("taking")):
            if (owner := owner_of(path)) is not None:
                where = "" if owner.host == socket.gethostname() else f" on {owner.host}"
                message = f"The run {path.parent.parent} is still being trained by process {owner.pid}{where}."
                remedy = "Stop it first (`celltrain stop`), or wait for its end."
                raise RunFolderError(Problem("running", "", message, remedy))
            _claim(path)
    released = threading.Event()

    def renew() -> None:
        while not released.wait(RENEWAL_SECONDS):
            with contextlib.suppress(OSError):
                _claim(path)

    renewal = threading.Thread(target=renew, name="celltrain-lock", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        released.set()
        renewal.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _claim(path: Path) -> None:
    """Name this process as it is now: its start, as the system reports it, moves with the clock."""
    files.write_text(path, json.dumps(asdict(Owner.this_process())))


@contextlib.contextmanager
def _alone(guard: Path) -> Iterator[None]:
    """Keep others from looking at the lock and taking it at the same moment. Only one can make a folder."""
    deadline = time.monotonic() + 2 * _GUARD_SECONDS
    while True:
        try:
            guard.mkdir()
            break
        except FileExistsError:
            with contextlib.suppress(OSError):  # a process killed in these milliseconds leaves it behind
                if abs(time.time() - guard.stat().st_mtime) > _GUARD_SECONDS:
                    guard.rmdir()
        if time.monotonic() > deadline:
            raise RunFolderError(f"{guard.parent.parent} is being opened by another process. Try again.")
        time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            guard.rmdir()


def _is_alive(owner: Owner, renewed: float) -> bool:
    if owner.host != socket.gethostname():
        return time.time() - renewed < SILENCE_SECONDS
    try:
        process = psutil.Process(owner.pid)
        # A zombie has ended; only its parent has not asked yet.
        return bool(abs(process.create_time() - owner.started) < 2 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
