"""Where text goes, and what is safe to send there."""

from __future__ import annotations

import contextlib
import os
import sys

from rich.console import Console
from rich.text import Text

from napari_celltrain.runs.wording import printable

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
    """One line to standard output, at once. When its reader has gone, what we do for it still goes on."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
