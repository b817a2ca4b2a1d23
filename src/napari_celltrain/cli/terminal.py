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
from napari_celltrain.values import errors
from napari_celltrain.values.events import finish
from napari_celltrain.values.text import printable

T = TypeVar("T")


class UnexpectedError(errors.CellTrainError):
    """A mistake of ours."""


class ExitCode(IntEnum):
    """Each with what it means, and the errors that end a command with it."""

    meaning: str
    kinds: tuple[type[errors.CellTrainError], ...]

    def __new__(cls, code: int, meaning: str, *kinds: type[errors.CellTrainError]) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_, member.meaning, member.kinds = code, meaning, kinds
        return member

    DONE = 0, "done; also after a stop that was asked for once"
    PROBLEMS_FOUND = 1, "`check` has found problems"
    USAGE = 2, "a wrong option or setting", errors.ConfigError
    DATA = 3, "images or labels cannot be used", errors.DataError
    FILES = 4, "a run folder or model file cannot be used", errors.RunFolderError, errors.ModelFileError
    DEVICE = 5, "the computing device is missing or out of memory", errors.DeviceError
    FAILED = 6, "training ended by another error"
    OUR_MISTAKE = 70, "a mistake in this program", UnexpectedError
    INTERRUPTED = 130, "ended at once by Ctrl-C"
    TERMINATED = 143, "ended at once by a signal to terminate, as of a cluster's time limit"


def exit_code_of(error: errors.CellTrainError) -> ExitCode:
    return next((code for code in ExitCode if isinstance(error, code.kinds)), ExitCode.FAILED)


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


def mistake(error: BaseException, folder: RunFolder | None = None) -> UnexpectedError:
    """What a user reads of ``error``; its traceback goes to the run folder or, before there is one, to the temporary
    files."""
    now, where = datetime.now(), ""
    about = f"napari-celltrain {__version__}, Python {platform.python_version()}, {platform.platform()}"
    content = "\n".join([about, f"{now:%Y-%m-%d %H:%M:%S}", "", *traceback.format_exception(error)])
    for place in ([folder.path] if folder is not None else []) + [Path(tempfile.gettempdir())]:
        report = place / f"celltrain-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
        with contextlib.suppress(OSError):
            report.write_text(content, encoding="utf-8", errors="backslashreplace")
            where = f" The full report is in {report}: please send it with yours."
            break
    return UnexpectedError(f"Sorry, this is a mistake in celltrain itself ({type(error).__name__}: {error}).{where}")
