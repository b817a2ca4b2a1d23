"""Runs a command that yields events, to its end or to the user's, and shows them: as a live picture on a terminal, as
lines in a file, or as JSON for a program.

Ctrl-C is the Stop button: once ends training after its next validation, twice at once, a third time by force.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console, Group
from rich.text import Text

from napari_celltrain.cli.terminal import ExitCode, console, is_main_process, mistake, report_at_once, text, write_line
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import CellTrainError, RunFolderError
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Prepared,
    Started,
    StepDone,
    Validated,
    ValidationProgressed,
    Warned,
    to_json,
)
from napari_celltrain.values.text import describe, duration, printable, scores

if TYPE_CHECKING:
    from rich.progress import TaskID

_STYLES: dict[type, str] = {Warned: "yellow", Failed: "bold red", Finished: "bold green", Started: "bold"}
_SILENT = (StepDone, EpochDone, Prepared)  # they move the bars instead


class Display:
    """Shows events between ``with`` and its end. This one shows none: of several processes that train together, the
    first shows them all."""

    reader: Literal["nobody", "people", "programs"] = "nobody"

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, event: Event) -> None:
        return None

    def notice(self, message: str) -> None:
        """Answer a key press; called from a signal handler, so it must not write to buffered streams."""
        report_at_once(message)


class PlainDisplay(Display):
    """A line for each epoch, validation and message, for files and terminals that cannot move the cursor."""

    reader = "people"

    def show(self, event: Event) -> None:
        line = None if isinstance(event, StepDone) else describe(event)
        if line is not None:
            write_line(printable(line))


class JsonDisplay(Display):
    """One event a line, each with its time: also those from before there is a folder, whose writer gives them one."""

    reader = "programs"

    def show(self, event: Event) -> None:
        write_line(to_json(event if event.time else event.model_copy(update={"time": time.time()})))


class LiveDisplay(Display):
    """Two bars, the latest numbers, and above them what is worth keeping; drawn at its own pace."""

    reader = "people"

    def __init__(self, console: Console) -> None:
        # the help of the command line needs neither
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = TextColumn("{task.description:<11}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn()
        self._console = console
        self._bars = Progress(*columns, console=console)
        self._epochs: TaskID | None = None
        self._steps = self._bars.add_task("preparing", total=None)
        self._steps_per_epoch: int | None = None
        self._latest: Validated | None = None
        self._best: Validated | None = None
        self._loss: float | None = None
        self._end: float | None = None
        self._notice = ""
        # drawn so seldom that it takes no noticeable time from training
        self._live = Live(
            get_renderable=self._picture, console=console, refresh_per_second=4, transient=True, redirect_stderr=False
        )

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        self._move(event)
        line = None if isinstance(event, _SILENT) else describe(event)
        if line is not None:
            self._console.print(text(line, _STYLES.get(type(event), "")))

    def notice(self, message: str) -> None:
        self._notice = message  # drawn by the display's own thread a moment later

    def _move(self, event: Event) -> None:
        match event:
            case Prepared():
                stage, total = printable(event.stage)[:36], event.total or None
                self._bars.update(self._steps, description=stage, completed=event.done, total=total)
            case Started():  # more than once where a run is resumed while it is watched
                self._steps_per_epoch = event.steps_per_epoch
                if self._epochs is None:
                    self._bars.remove_task(self._steps)
                    self._epochs = self._bars.add_task("epoch", total=event.epochs)
                    self._steps = self._bars.add_task("step", total=event.steps_per_epoch)
                self._bars.update(self._epochs, completed=event.first_epoch - 1, total=event.epochs)
            case StepDone():
                self._loss, total = event.loss, self._steps_per_epoch
                self._bars.update(self._steps, description="step", completed=event.step_in_epoch, total=total)
            case EpochDone():
                self._end = (event.time or time.time()) + event.remaining_seconds
                if self._epochs is not None and self._bars.tasks[-1].remaining == 0:  # else it was cut short
                    self._bars.update(self._epochs, completed=event.epoch)
            case ValidationProgressed():
                self._bars.update(self._steps, description="validation", completed=event.done, total=event.total)
            case Validated():
                self._latest = event
                self._best = event if event.is_best else self._best

    def _picture(self) -> Group:
        notice = [text(self._notice, "bold yellow")] if self._notice else []
        return Group(self._bars.get_renderable(), self._numbers(), *notice)

    def _numbers(self) -> Text:
        """Loss, Dice, best and remaining time, as far as they are known and fit one line."""
        latest, best = self._latest, self._best
        loss = f"loss {self._loss:.4f}" if self._loss is not None else ""
        score = scores(latest.dice, latest.f1) if latest is not None else ""
        highest = f"best {best.dice:.4f} (epoch {best.epoch})" if best is not None else ""
        left = f"{duration(max(0.0, self._end - time.time()))} left" if self._end is not None else ""
        line = Text()
        for items in ((loss, score, highest, left), (score, highest, left), (score, left)):
            line = text("  ".join(filter(None, items)), "cyan")
            if line.cell_len <= self._console.width:
                break
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def make_display(json: bool) -> Display:
    """The display that suits the reader of standard output."""
    if not is_main_process():
        return Display()
    if json:
        return JsonDisplay()
    output = console()
    return LiveDisplay(output) if output.is_terminal and not output.is_dumb_terminal else PlainDisplay()


# --- running to the end, and Ctrl-C -----------------------------------------------------------------------------------

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


class StopSignals(ExitStack):
    """Until it is closed, signals become stop requests in ``folder``; before that is known they end the program."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self.folder: RunFolder | None = None
        self.exit_code = ExitCode.DONE
        self._display = display
        self._received = 0
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self.callback(signal.signal, number, signal.signal(number, self._handle))

    def _handle(self, number: int, frame: object) -> None:
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
    events: Iterator[Event], display: Display, results: Path | None = None
) -> tuple[dict[type, Any], RunFolder | None]:
    """Show all ``events``; gives the last one of each kind, and the run folder.

    ``results`` is where the run folder is made: from its start on, Ctrl-C asks for a stop there.
    Raises ``CellTrainError`` on any failure, ``typer.Exit`` after a stop by force.
    """
    last: dict[type, Any] = {}
    with StopSignals(display) as signals:
        try:
            with refusals_shown(display), display:
                for event in events:
                    if isinstance(event, Failed):
                        raise CellTrainError(event.message)
                    if isinstance(event, Started) and results is not None:
                        signals.folder = RunFolder(results / event.run)
                    last[type(event)] = event
                    display.show(event)
        except KeyboardInterrupt:
            raise typer.Exit(signals.exit_code or ExitCode.INTERRUPTED) from None
        except CellTrainError:
            raise
        except Exception as error:
            raise mistake(error, signals.folder) from error
        finally:
            if isinstance(events, Generator):
                events.close()  # its clean-up must not wait for the garbage collector
    if signals.exit_code:
        raise typer.Exit(signals.exit_code)
    return last, signals.folder


@contextmanager
def refusals_shown(display: Display) -> Iterator[None]:
    """A program that reads events must read, as one of them, why there will be no more."""
    try:
        yield
    except Exception as error:
        if display.reader == "programs":
            ours = "" if isinstance(error, CellTrainError) else "A mistake in this program: "
            display.show(Failed(message=f"{ours}{error}"))
        raise
