"""Writing files so that a process killed at any instant leaves either the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from napari_celltrain.errors import RunFolderError

TEMPORARY_PREFIX = ".tmp-"

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_IS_A_FILE = {errno.ENOTDIR, errno.EEXIST}


def write_with(path: Path, writer: Callable[[Path], None]) -> None:
    """Let ``writer`` fill a temporary file beside ``path`` (same suffix), then rename it to ``path``.

    Whatever ``writer`` raises passes through; the temporary file is then gone and the old file untouched.
    """
    # Short and without the target's own name, which may already be as long as a name may be.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{path.suffix}")
    try:
        writer(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_with(path, write)


def write_text(path: Path, content: str) -> None:
    """UTF-8, with the line breaks of ``content`` as they are on every system."""
    write_bytes(path, content.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a power cut, where the system can do that (Windows cannot)."""
    if os.name == "nt":
        return
    # Some network file systems refuse to sync a folder; the rename itself has still happened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def refusal(path: Path, error: OSError) -> RunFolderError:
    """What to tell the user when ``path`` could not be written."""
    if error.errno in _NO_SPACE:
        return RunFolderError(
            f"There is no space left to write {path}. Free some space on that disk, or choose another results "
            "folder. What was saved before is intact."
        )
    if error.errno in _NO_PERMISSION:
        return RunFolderError(f"{path} cannot be written: permission denied. Choose another results folder.")
    if error.errno in _IS_A_FILE:
        return RunFolderError(
            f"{path} cannot be made: a file is in the way where a folder is needed. Choose another results folder."
        )
    if error.errno == errno.ENAMETOOLONG:
        return RunFolderError(f"{path} cannot be made: the name is too long. Choose a shorter run name or folder.")
    return RunFolderError(f"{path} cannot be written: {error.strerror or error}. Choose another results folder.")


def _replace(source: Path, target: Path) -> None:
    """``os.replace``, patient on Windows, where a virus scanner or a viewer may hold the target for a moment."""
    attempts = 20 if os.name == "nt" else 1
    for attempt in range(attempts):
        try:
            source.replace(target)
            return
        except PermissionError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.05)
