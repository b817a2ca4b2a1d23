"""How events are shown: as a live picture on a terminal, as lines in a file, or as JSON for a program."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from napari_celltrain.cli.terminal import console, is_main_process, tell_at_once, write_line
from napari_celltrain.events import Event, StepDone, to_json
from napari_celltrain.runs.wording import describe, printable


class Display(Protocol):
    """Shows events between ``with`` and its end."""

    for_programs: bool
    """Whether a program reads it, which then wants to hear of failures as events too."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def show(self, event: Event) -> None: ...

    def notice(self, message: str) -> None:
        """Answer a key press; called from a signal handler, so it must not write to buffered streams."""


class _Still:
    """A display that needs no setting up."""

    for_programs = False

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def show(self, event: Event) -> None:
        return None

    def notice(self, message: str) -> None:
        tell_at_once(message)


class SilentDisplay(_Still):
    """For all but the first of several processes that train together."""


class PlainDisplay(_Still):
    """A line for each epoch, validation and message, for files and terminals that cannot move the cursor."""

    def show(self, event: Event) -> None:
        line = None if isinstance(event, StepDone) else describe(event)
        if line is not None:
            write_line(printable(line))


class JsonDisplay(_Still):
    """One event a line, each with its time: also those from before there is a folder, whose writer gives them one."""

    for_programs = True

    def show(self, event: Event) -> None:
        write_line(to_json(event if event.time else event.model_copy(update={"time": time.time()})))


def make_display(json: bool) -> Display:
    """The display that suits whoever reads standard output."""
    if not is_main_process():
        return SilentDisplay()
    if json:
        return JsonDisplay()
    output = console()
    if output.is_terminal and not output.is_dumb_terminal:
        from napari_celltrain.cli.live import LiveDisplay

        return LiveDisplay(output)
    return PlainDisplay()
