"""Files that are whole or not at all, what to say where they cannot be written, and CSV tables.

A process killed at any instant leaves either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import numbers
import os
import platform
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from napari_celltrain.values.errors import CellTrainError, DataError, Problem, RunFolderError

_PREFIX = ".tmp-"
T = TypeVar("T")


def temporary(path: Path) -> Path:
    """A name for what will become ``path``: beside it, with its suffix, and with the mark of this process."""
    # without the target's own name, which may already be as long as a name may be
    mark = f"{_machine_code()}-{os.getpid()}-{start_of(os.getpid())}"
    return path.with_name(f"{_PREFIX}{secrets.token_hex(4)}-{mark}{path.suffix}")


def write_with(path: Path, writer: Callable[[Path], T]) -> T:
    """Let ``writer`` fill a temporary file beside ``path`` (same suffix), then rename it to ``path``; its result.

    Whatever ``writer`` raises passes through; the temporary file is then gone and the old file untouched.
    """
    unfinished = temporary(path)
    try:
        result = writer(unfinished)
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        _replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync(path.parent)
    return result


def sync(path: Path, top: Path | None = None) -> None:
    """Make a file, or the names in a folder, outlast a power cut; with ``top`` also the folders above, up to it.

    Windows cannot do that for folders, and some network file systems refuse; what was written is still there.
    """
    for each in (path, *(path.parents if top is not None else ())):
        with contextlib.suppress(OSError):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if each == top:
            return


def write_text(path: Path, content: str) -> None:
    """UTF-8, with the line breaks of ``content`` as they are on every system; bytes that are no text as ``\\udc..``."""
    write_with(path, lambda temporary: temporary.write_bytes(content.encode("utf-8", "backslashreplace")))


def _replace(source: Path, target: Path) -> None:
    """``os.replace``, patient on Windows, where a virus scanner or a viewer may hold the target for a moment."""
    for _ in range(19 if os.name == "nt" else 0):
        with contextlib.suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(0.05)
    source.replace(target)


def remove_leftovers(folder: Path, of_others: bool = False) -> None:
    """Delete what killed processes left unfinished in ``folder``: those of this computer, or with ``of_others`` all."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        code, pid, start = (*leftover.stem.split("-")[2:], "", "", "")[:3]
        is_ours = code == _machine_code() and pid.isascii() and pid.isdigit() and start.isdigit()
        if of_others or (is_ours and start_of(int(pid)) not in (start, "")):
            with contextlib.suppress(OSError):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


# --- processes --------------------------------------------------------------------------------------------------------


@cache
def machine() -> str:
    """This computer since it was started, as one set of process numbers; empty where the system names neither."""
    parts = []
    with contextlib.suppress(OSError):  # Linux alone has these
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()]
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def start_of(pid: int) -> str | None:
    """What tells a living process from a later one of the same number, whatever happens to the clock.

    None where there is no such process; empty where the system does not say.
    """
    try:
        # proc(5): ticks since the computer was started; what psutil makes of them moves with the clock
        state, *numbers = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if state in "ZX" else numbers[18]  # a zombie has ended; only its parent has not asked yet
    except (OSError, ValueError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{100 * process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
    except (psutil.Error, OSError, ValueError, OverflowError):
        return ""


@cache
def _machine_code() -> str:
    return f"{zlib.crc32((machine() + platform.node()).encode('utf-8', 'replace')):08x}"


# --- refusals ---------------------------------------------------------------------------------------------------------

_REFUSALS = (
    (
        {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)},
        "there is no space left on the disk",
        "Free some, or choose a folder on another disk. What was saved before is intact.",
    ),
    (
        {errno.EROFS},
        "the disk is read-only",
        "Make it writable (errors of a disk can be the cause), or take a folder on another disk.",
    ),
    ({errno.EACCES, errno.EPERM}, "permission denied", "Ask for permission to write there, or take another folder."),
    ({errno.ENOENT}, "its folder does not exist", "Create it, or choose another one."),
    ({errno.ENOTDIR, errno.EEXIST}, "a file is in the way where a folder is needed", "Choose another folder."),
    ({errno.EISDIR}, "a folder has this name", "Choose another name."),
    ({errno.ENAMETOOLONG}, "the name is too long for the disk", "Choose a shorter one."),
)


@contextlib.contextmanager
def writing(path: Path, kind: type[CellTrainError] = RunFolderError) -> Iterator[None]:
    """Around code that writes ``path``: an ``OSError`` in it becomes a ``kind`` that says why, and what to do."""
    try:
        yield
    except OSError as error:
        known = [(reason, remedy) for codes, reason, remedy in _REFUSALS if error.errno in codes]
        unknown = (error.strerror or str(error) or type(error).__name__, "Check the disk, or choose another folder.")
        reason, remedy = (*known, unknown)[0]
        raise kind(Problem("not-writable", str(path), f"cannot be written: {reason}.", remedy)) from error


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file; its folder is made. Numbers are written in full; None and NaN become empty cells.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. Raises :class:`DataError`.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(value) for value in row] for row in (header, *rows))
    with writing(path, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, buffer.getvalue())


def _cell(value: object) -> object:
    if isinstance(value, numbers.Integral | np.bool_):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return "" if math.isnan(number) else repr(number)
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
