"""Drives a generator of events from the command line, to its end or to the user's.

Ctrl-C is the Stop button: once ends training after its next validation, twice at once, a third time by force.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import typer

from napari_celltrain.cli.display import Display
from napari_celltrain.cli.terminal import ExitCode, UnexpectedError, is_main_process, write_report
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import CellTrainError, RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Started

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


class StopSignals:
    """In ``with``, signals become stop requests in ``folder``; before it is known they end the program."""

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
        # A process that is terminated is mostly killed soon after: there may be no time for another epoch.
        self._received = 2 if terminate else self._received + 1
        now = self._received == 2
        if now:
            self.exit_code = ended
        if is_main_process():  # the others get it from the first
            notice = (
                "Stopping after the current batch, with a validation. Ctrl-C again ends at once, without it."
                if now
                else "Stopping after the next validation, so that the latest model is kept if it is better "
                "(Ctrl-C again: end after this batch)."
            )
            try:
                self.folder.request_stop(now)
            except RunFolderError as error:
                notice = str(error)
            self._display.notice(notice)


def follow(
    events: Iterator[Event], display: Display, folder_of: Callable[[Started], RunFolder] | None = None
) -> tuple[Finished | None, RunFolder | None]:
    """Show all ``events``; gives the last one, where training has finished, and the run folder.

    ``folder_of`` finds the run folder when training starts: from then on Ctrl-C asks for a stop there.
    Raises ``CellTrainError`` on any failure, ``typer.Exit`` after a stop by force.
    """
    failed: Failed | None = None
    finished: Finished | None = None
    with StopSignals(display) as signals:
        try:
            with display:
                for event in events:
                    if isinstance(event, Started) and folder_of is not None:
                        signals.folder = folder_of(event)
                    failed = event if isinstance(event, Failed) else failed
                    finished = event if isinstance(event, Finished) else finished
                    if display.for_programs or not isinstance(event, Failed):
                        display.show(event)
            if failed is not None:
                raise CellTrainError(failed.message)
        except KeyboardInterrupt:
            raise typer.Exit(signals.exit_code or ExitCode.INTERRUPTED) from None
        except CellTrainError as error:
            _tell_programs(display, failed, str(error))
            raise
        except Exception as error:
            report = write_report(error, signals.folder)
            _tell_programs(display, failed, f"A mistake in this program: {error}")
            raise UnexpectedError(error, report) from error
        finally:
            if isinstance(events, Generator):
                events.close()  # its clean-up must not wait for the garbage collector
    if signals.exit_code:
        raise typer.Exit(signals.exit_code)
    return finished, signals.folder


@contextmanager
def refusals_shown(display: Display) -> Iterator[None]:
    """Around what is read before there are events: a program must read, as an event, why there will be none."""
    try:
        yield
    except CellTrainError as error:
        _tell_programs(display, None, str(error))
        raise


def _tell_programs(display: Display, failed: Failed | None, message: str) -> None:
    """A program that reads events must read of every failure, once."""
    if display.for_programs and failed is None:
        display.show(Failed(message=message))
