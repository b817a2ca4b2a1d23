"""Driving a generator of events from the command line, to its end or to the user's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import typer

from napari_celltrain.cli.crash import UnexpectedError, write_report
from napari_celltrain.cli.display import Display
from napari_celltrain.cli.exit_codes import ExitCode
from napari_celltrain.cli.interrupts import StopSignals
from napari_celltrain.errors import CellTrainError
from napari_celltrain.events import Event, Failed, Finished, Started
from napari_celltrain.runs.folder import RunFolder


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
def refusals_told(display: Display) -> Iterator[None]:
    """For what is read before there are events: a program must hear, as an event, why there will be none."""
    try:
        yield
    except CellTrainError as error:
        _tell_programs(display, None, str(error))
        raise


def _tell_programs(display: Display, failed: Failed | None, message: str) -> None:
    """A program that reads events must hear of every failure, once."""
    if display.for_programs and failed is None:
        display.show(Failed(message=message))
