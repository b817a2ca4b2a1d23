"""What a command leaves behind: its exit code, text on the terminal, and a report of a mistake of ours."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Generator
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Literal, TypeVar

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
from napari_celltrain.values.events import finish
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

_OF_ERROR: dict[type[CellTrainError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    DataError: ExitCode.DATA,
    RunFolderError: ExitCode.FILES,
    ModelFileError: ExitCode.FILES,
    DeviceError: ExitCode.DEVICE,
}


def exit_code_of(error: CellTrainError) -> ExitCode:
    return next((code for kind, code in _OF_ERROR.items() if isinstance(error, kind)), ExitCode.FAILED)


def is_main_process() -> bool:
    """Of several processes that train together only the first one prints."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Standard output. Foreign text (file names, messages) goes to it as :func:`text`, whose markup is inert."""
    plain = Console(highlight=False)
    # tables in a file or a pipe should not be folded to an imagined window
    return plain if plain.is_terminal else Console(highlight=False, width=160)


def text(content: object, style: str = "") -> Text:
    return Text(printable(str(content)), style=style)


def say(content: object, style: str = "") -> None:
    """A line on standard output, which the terminal may fold but we do not."""
    console().print(text(content, style), soft_wrap=True)


def report(kind: Literal["Error", "Warning"], message: str) -> None:
    """To standard error, in colour on a terminal."""
    if is_main_process():
        style = "bold red" if kind == "Error" else "bold yellow"
        Console(stderr=True, highlight=False).print(Text(f"{kind}: ", style=style) + text(message), soft_wrap=True)


def report_at_once(message: str) -> None:
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
    """The result of ``steps``. On a terminal a line says how far they are, such as ``{0} of {1}, {2}``."""
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("Reading the volumes …") as status:
        return finish(steps, lambda step: status.update(text(sentence.format(*step))))


class UnexpectedError(Exception):
    """A mistake of ours, with the ``report`` written about it (None where that failed too)."""

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
    about = f"napari-celltrain {__version__}, Python {platform.python_version()}, {platform.platform()}"
    content = "\n".join([about, f"{datetime.now():%Y-%m-%d %H:%M:%S}", "", *traceback.format_exception(error)])
    name = f"celltrain-error-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for place in ([folder.path] if folder is not None else []) + [Path(tempfile.gettempdir())]:
        try:
            (place / name).write_text(content, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return place / name
    return None
