"""Our own mistakes: a short apology on the screen, everything else in a file."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

from napari_celltrain import __version__
from napari_celltrain.runs.folder import RunFolder


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
