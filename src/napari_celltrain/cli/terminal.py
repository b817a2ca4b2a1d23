"""What the command's exit code tells a script.

Where text goes, and what is safe to send there.

Our own mistakes: a short apology on the screen, everything else in a file.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Generator
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from napari_celltrain import __version__
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import (
    CellTrainError,
    ConfigError,
    DataError,
    DeviceError,
    ModelFileError,
    RunFolderError,
)
from napari_celltrain.values.text import printable

T = TypeVar("T")


class ExitCode(IntEnum):
    DONE = 0
    PROBLEMS_FOUND = 1
    USAGE = 2
    DATA = 3
    FILES = 4
    DEVICE = 5
    FAILED = 6
    OUR_MISTAKE = 70
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    ExitCode.DONE: "done; also after a stop that was asked for once",
    ExitCode.PROBLEMS_FOUND: "`check` has found problems",
    ExitCode.USAGE: "a wrong option or setting",
    ExitCode.DATA: "images or labels cannot be used",
    ExitCode.FILES: "a run folder or model file cannot be used",
    ExitCode.DEVICE: "the computing device is missing or out of memory",
    ExitCode.FAILED: "training ended by another error",
    ExitCode.OUR_MISTAKE: "a mistake in this program",
    ExitCode.INTERRUPTED: "ended at once by Ctrl-C",
    ExitCode.TERMINATED: "ended at once by a signal to terminate, as of a cluster's time limit",
}

_OF_ERROR: tuple[tuple[type[CellTrainError], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (DataError, ExitCode.DATA),
    (RunFolderError, ExitCode.FILES),
    (ModelFileError, ExitCode.FILES),
    (DeviceError, ExitCode.DEVICE),
)


def exit_code_of(error: CellTrainError) -> ExitCode:
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), ExitCode.FAILED)


# --- terminal --------------------------------------------------------------------------------------------

# Tables in a file or a pipe should not be folded to an imagined window.
_WIDTH_OF_A_PIPE = 160


def is_main_process() -> bool:
    """Of several processes that train together only the first one speaks."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Standard output. Text of others (file names, messages) goes to it as ``Text``, whose markup is inert."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def text(content: object, style: str = "") -> Text:
    return Text(printable(str(content)), style=style)


def tell_error(message: str) -> None:
    """To standard error, in red on a terminal."""
    _tell("Error: ", "bold red", message)


def tell_warning(message: str) -> None:
    """To standard error, in yellow on a terminal."""
    _tell("Warning: ", "bold yellow", message)


def _tell(kind: str, style: str, message: str) -> None:
    if is_main_process():
        Console(stderr=True, highlight=False).print(Text(kind, style=style) + text(message), soft_wrap=True)


def tell_at_once(message: str) -> None:
    """To standard error from within a signal handler, where buffered writing may fail."""
    if is_main_process():
        with contextlib.suppress(OSError):
            os.write(2, f"\n{message}\n".encode())


def write_line(line: str) -> None:
    """One line to standard output, at once. Where nobody reads it or its disk is full, the work goes on without it."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:
        # The interpreter would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_progress(steps: Generator[tuple[int, int, str], None, T], sentence: str) -> T:
    """The result of ``steps``. On a terminal a line says how far they are, such as ``{done} of {total}, {name}``."""
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("Reading the volumes …") as status:
        while True:
            try:
                done, total, name = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            status.update(text(sentence.format(done=done, total=total, name=name)))


# --- crash -----------------------------------------------------------------------------------------------


class UnexpectedError(Exception):
    """An exception that nobody expected, with the ``report`` written about it (None where that failed too)."""

    def __init__(self, error: BaseException, report: Path | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.report = report

    def __str__(self) -> str:
        kind = type(self.error).__name__
        where = f" The full report is in {self.report}: please send it with yours." if self.report else ""
        return f"Sorry, this is a mistake in celltrain itself ({kind}: {self.error}).{where}"


def write_report(error: BaseException, folder: RunFolder | None) -> Path | None:
    """The traceback of ``error``, in the run folder or, before there is one, among the temporary files."""
    content = "\n".join(
        [
            f"napari-celltrain {__version__}, Python {platform.python_version()}, {platform.platform()}",
            time.strftime("%Y-%m-%d %H:%M:%S"),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    for place in (folder.path if folder is not None else None, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            path = place / f"celltrain-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
            path.write_text(content, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None
