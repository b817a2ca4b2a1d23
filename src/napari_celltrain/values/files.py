"""Writing files so that a process killed at any instant leaves either the old file or the new one.

Tables for spreadsheets.

YAML from strangers: plain values only, and nothing that explodes or nests without end.
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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from napari_celltrain.values.errors import DataError, RunFolderError

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


# --- table file ------------------------------------------------------------------------------------------

# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, whole or not at all. Numbers are written in full; None and NaN become empty cells.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. Raises :class:`DataError`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(title) for title in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_file(path, buffer.getvalue())


def write_file(path: Path, content: str) -> None:
    """Text in UTF-8, whole or not at all. Raises :class:`DataError` naming the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise table_refusal(path, error) from error


def table_refusal(path: Path, error: OSError) -> DataError:
    """What to tell the user when ``path`` could not be written."""
    reason = error.strerror or str(error) or type(error).__name__
    return DataError(f"{path} cannot be written: {reason}. Choose another place with --output, or free some space.")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return "" if math.isnan(number) else repr(number)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


# --- safe yaml -------------------------------------------------------------------------------------------

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 16


class _Loader(yaml.SafeLoader):
    """A safe loader that also refuses aliases (they can grow exponentially), deep nesting and repeated keys."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it bare
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed here", event.start_mark)
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise _refusal("it is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                raise _refusal(f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


# `run_name: 2026-11-22` is a name, not a date.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """The value that ``text`` writes. Raises ``ValueError`` with one sentence on anything else."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError("It is too large for a configuration.")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"Line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{place}{error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"It is not valid YAML ({' '.join(str(error).split())}).") from error


def yaml_scalar(value: Any) -> str:
    """``value`` on one line, such that :func:`load` gives it back."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")
