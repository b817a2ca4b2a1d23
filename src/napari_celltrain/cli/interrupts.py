"""Ctrl-C as the Stop button: once ends training after its next validation, twice at once, a third time by force."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from napari_celltrain.cli.display import Display
from napari_celltrain.cli.exit_codes import ExitCode
from napari_celltrain.cli.terminal import is_main_process
from napari_celltrain.errors import RunFolderError
from napari_celltrain.runs.folder import RunFolder

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


class StopSignals:
    """While in ``with``, signals become stop requests in ``folder``; before it is known they end the program."""

    def __init__(self, display: Display) -> None:
        self.folder: RunFolder | None = None
        self.exit_code = ExitCode.DONE
        self._display = display
        self._received = 0
        self._previous: dict[Any, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        terminate = number == signal.SIGTERM
        ended = ExitCode.TERMINATED if terminate else ExitCode.INTERRUPTED
        if self.folder is None or self._received >= 2:
            self.exit_code = ended
            raise KeyboardInterrupt
        # Whoever terminates a process kills it soon after: there may be no time for another epoch.
        self._received = 2 if terminate else self._received + 1
        now = self._received == 2
        if now:
            self.exit_code = ended
        if is_main_process():  # the others hear of it from the first
            self._request(self.folder, now)

    def _request(self, folder: RunFolder, now: bool) -> None:
        try:
            folder.request_stop(now)
        except RunFolderError as error:
            self._display.notice(str(error))
            return
        self._display.notice(
            "Stopping after the current batch, with a validation. Ctrl-C again ends at once, without it."
            if now
            else "Stopping after the next validation, so that the latest model is kept if it is better "
            "(Ctrl-C again: end after this batch)."
        )
