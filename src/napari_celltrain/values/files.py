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
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_celltrain.values.errors import CellTrainError, DataError, Problem, RunFolderError

TEMPORARY_PREFIX = ".tmp-"
T = TypeVar("T")


def write_with(path: Path, writer: Callable[[Path], T]) -> T:
    """Let ``writer`` fill a temporary file beside ``path`` (same suffix), then rename it to ``path``; its result.

    Whatever ``writer`` raises passes through; the temporary file is then gone and the old file untouched.
    """
    # Short and without the target's own name, which may already be as long as a name may be.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{path.suffix}")
    try:
        result = writer(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    # Make the rename outlast a power cut. Windows cannot, and some network file systems refuse; it has still happened.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return result


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


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


_REFUSALS = (
    (
        {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)},
        "there is no space left on the disk",
        "Free some, or choose a folder on another disk. What was saved before is intact.",
    ),
    ({errno.EACCES, errno.EPERM, errno.EROFS}, "permission denied", "Choose another folder."),
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
